"""Small tables in the competition's form, as the text of their files."""

METADATA = """\
filename,url,project_id,num_frames,crowd_score,tier1,micro,nano
100000.mp4,s3://bucket/train/100000.mp4,M,54,0.0,True,False,False
100001.mp4,s3://bucket/train/100001.mp4,F,48,0.0227686,False,False,False
100002.mp4,s3://bucket/train/100002.mp4,F,122,1.0,True,True,True
"""
TEST_METADATA = """\
filename,url,num_frames
100032.mp4,s3://bucket/test/100032.mp4,37
"""
LABELS = """\
filename,stalled
100002.mp4,1
100000.mp4,0
100001.mp4,0
"""
