// The missing shards of a plan, and its merge, with Nextflow; a failed shard is tried three times more.
//
//   nextflow run deploy/main.nf --plan /data/PLAN --out /data/OUT [--cores 4]
//
// Tasks run in folders of their own, so both paths must be absolute, or a plan's s3:// address.
params.plan = null
params.out = "${launchDir}/results"
params.cores = 4

process MISSING {
    output:
    stdout

    script:
    """
    stallscan status '${params.plan}' --missing
    """
}

process SHARD {
    tag "$number"
    cpus params.cores
    errorStrategy 'retry'
    maxRetries 3

    input:
    val number

    output:
    val number

    script:
    """
    stallscan run '${params.plan}' --shard $number --cores ${task.cpus}
    """
}

process MERGE {
    input:
    val done

    script:
    """
    stallscan merge '${params.plan}' -o '${params.out}'
    """
}

workflow {
    numbers = MISSING().splitText().map { line -> line.trim() }.filter { line -> line }
    MERGE(SHARD(numbers).collect().ifEmpty([]))
}
