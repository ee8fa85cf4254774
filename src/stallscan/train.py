"""Training: a recipe and a folder of labelled recordings in, a run folder with a bundle out."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
import yaml
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from stallscan import bundle as bundles
from stallscan import catalog as catalogs
from stallscan import decide, files, metrics, nets, store
from stallscan.bundle import BundleSpec
from stallscan.dataset import Batch, ClipDataset, Collate, LengthSampler
from stallscan.errors import InputError, StoreError
from stallscan.recipe import Recipe
from stallscan.store import Store
from stallscan.tables import HISTORY_COLUMNS, read_labels, read_metadata
from stallscan.video import Source

CARD = Path(__file__).with_name("assets") / "card.md.j2"


@dataclass(frozen=True)
class Data:
    """Labelled recordings, prepared.

    Attributes
    ----------
    store : Store
        Their clips.
    train, validation : DataFrame
        Rows of the catalog, only those with a clip.
    sha256 : str
        Hash of filenames and labels of both parts.
    simulated : bool
        Whether the folder says that its recordings are simulated.
    """

    store: Store
    train: pd.DataFrame
    validation: pd.DataFrame
    sha256: str
    simulated: bool


def train(
    recipe: Recipe,
    data: Path,
    run: Path,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> BundleSpec:
    """Train a net as the recipe says and write its bundle into the run folder.

    A run that was interrupted goes on where it was: prepared clips are kept, and training resumes
    from the last epoch's checkpoint.

    Parameters
    ----------
    recipe : Recipe
        The experiment.
    data : Path
        Folder with ``train_metadata.csv``, ``train_labels.csv`` (or ``.gz``) and ``train/``.
    run : Path
        The run folder.
    progress : callable
        Called with how many recordings are prepared, of how many.

    Raises
    ------
    StallscanError
        If recipe, tables or recordings cannot be used, or the run folder holds another run.
    """
    _claim(run, recipe)
    prepared = prepare_data(recipe, data, run / "store", progress)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    net = nets.build(recipe.net)
    nets.load_pretrained(net, recipe.net.name, recipe.pretrained)
    module = _Module(net, recipe, catalogs.Selection.of(prepared.train).class_weight)
    best = _fit(module, recipe, prepared, run)
    module.load_state_dict(best["state_dict"])
    return _write_bundle(module, recipe, prepared, run, int(best["epoch"]))


def prepare_data(
    recipe: Recipe, data: Path, folder: Path, progress: Callable[[int, int], None]
) -> Data:
    """Select, split and prepare the recordings of a data folder.

    A data folder that brings its clips in ``store/`` needs no recordings.

    Raises
    ------
    InputError
        If tables are missing or wrong, or too few recordings are left.
    StoreError
        If the clips that the data folder brings were made with other settings.
    """
    table = catalogs.join_labels(
        read_metadata(_table(data, "train_metadata.csv")),
        read_labels(_table(data, "train_labels.csv")),
    )
    selected = catalogs.select(table, recipe.data.rule, recipe.seed)
    if (data / "store" / store.MANIFEST_NAME).is_file():
        made = _open_store(data / "store", recipe)
        progress(len(selected), len(selected))
    else:
        sources = [Source(name, data / "train" / name) for name in selected["filename"]]
        made = store.build(folder, sources, recipe.outline, recipe.clip, progress=progress)
    usable = selected[[name in made for name in selected["filename"]]]
    if len(usable) < len(selected):
        logging.getLogger("stallscan").warning(
            "%d of %d recordings gave no clip and are left out; %s says why",
            len(selected) - len(usable),
            len(selected),
            made.folder / store.MANIFEST_NAME,
        )
    train_part, validation = catalogs.split_stratified(usable, recipe.data.validation, recipe.seed)
    content = usable[["filename", "stalled"]].to_csv(index=False).encode()
    simulated = (data / "simulation.json").is_file()
    return Data(made, train_part, validation, files.sha256_of(content), simulated)


def _open_store(folder: Path, recipe: Recipe) -> Store:
    made = Store(folder)
    if differences := made.manifest.differences(recipe.outline, recipe.clip):
        raise StoreError(
            f"{folder}: its clips are not those of the recipe {recipe.name} "
            f"({'; '.join(differences)}); 'stallscan simulate FOLDER --clips --recipe "
            f"{recipe.name}' makes them anew in another folder"
        )
    return made


def _table(data: Path, name: str) -> Path:
    for path in (data / name, data / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{data}: {name} is missing; a data folder holds train_metadata.csv, train_labels.csv "
        "and the recordings in train/, or their clips in store/"
    )


def _claim(run: Path, recipe: Recipe) -> None:
    """Write the resolved recipe into the run folder; refuse a folder of another run."""
    files.make_folder(run)
    path = run / "recipe.yaml"
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{run}: holds a run of another recipe ({path}); choose another folder with -o, or "
            "remove this one"
        )
    files.write_text(path, text)


class _Module(lightning.LightningModule):
    """One net with its loss, optimiser and validation metrics."""

    def __init__(self, net: torch.nn.Module, recipe: Recipe, class_weight: float) -> None:
        super().__init__()
        # The layout in which convolutions of a video are fastest, on a processor and on a GPU.
        self.net = net.to(memory_format=torch.channels_last_3d)
        self.recipe = recipe
        self.class_weight = class_weight
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        loss = self._loss(self._logits(batch), batch.labels)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}, at rows "
                f"{batch.rows.tolist()} of the training part; lower training.learning_rate or "
                "look at these recordings"
            )
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.logits.append(self._logits(batch).float().cpu())
        self.labels.append(batch.labels.cpu())

    def on_validation_epoch_end(self) -> None:
        logits, labels = torch.cat(self.logits), torch.cat(self.labels)
        self.logits, self.labels = [], []
        scores = torch.sigmoid(logits)
        scored = metrics.Scored.check(labels, scores, scores >= 0.5, (0.5,))
        measured = metrics.measure(scored)
        self.log("val_loss", self._loss(logits, labels), prog_bar=True)
        for name in ("mcc", "accuracy", "roc_auc", "pr_auc"):
            # With one class the AUCs do not exist: the worst value keeps such a checkpoint last.
            self.log(f"val_{name}", float(getattr(measured, name) or 0.0), prog_bar=name == "mcc")

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.net(batch.inputs.to(memory_format=torch.channels_last_3d))
        return logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = torch.tensor(self.class_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weight)

    def configure_optimizers(self) -> Any:
        settings = self.recipe.training
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # PyTorch's defaults for div_factor (25), final_div_factor (1e4) and the momentum, which
        # moves Adam's beta1 from 0.85 (at the peak) to 0.95, are the published ones.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=settings.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=settings.warm_up,
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class _History(Callback):
    """Writes ``history.csv`` after each epoch; a resumed run goes on in the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        row = {name: float(trainer.callback_metrics[name]) for name in HISTORY_COLUMNS[1:-1]}
        row["epoch"] = trainer.current_epoch
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        history = pd.DataFrame([row], columns=list(HISTORY_COLUMNS))
        if self.path.is_file():
            before = pd.read_csv(self.path)
            # The epoch that a kill cut short is done again.
            history = pd.concat([before[before["epoch"] < trainer.current_epoch], history])
        files.write_text(self.path, history.to_csv(index=False))


def _fit(module: _Module, recipe: Recipe, data: Data, run: Path) -> dict[str, Any]:
    """Train, or go on training, and return the best checkpoint."""
    settings = recipe.training
    checkpoint = ModelCheckpoint(
        dirpath=run / "checkpoints",
        filename="best",
        monitor=settings.monitor,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    last = run / "checkpoints" / "last.ckpt"
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning's advice on worker counts and unlogged steps is not for our users.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            precision=settings.precision,
            accelerator="auto",
            devices=1,
            logger=False,
            callbacks=[
                checkpoint,
                _History(run / "history.csv"),
                RichProgressBar(console_kwargs={"stderr": True}),
            ],
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run,
        )
        trainer.fit(
            module,
            _loader(recipe, data.store, data.train, augment=True),
            _loader(recipe, data.store, data.validation, augment=False),
            ckpt_path=str(last) if last.is_file() else None,
            weights_only=False,
        )
    best: dict[str, Any] = torch.load(
        run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=False
    )
    return best


def _loader(recipe: Recipe, clips: Store, rows: pd.DataFrame, *, augment: bool) -> Any:
    names = list(rows["filename"])
    labels = [int(label) for label in rows["stalled"]]
    workers = recipe.training.workers
    collate = Collate(recipe.net)
    if not augment:
        # One clip at a time: none is trimmed to the length of another.
        return DataLoader(
            ClipDataset(clips, names, labels), batch_size=1, collate_fn=collate, num_workers=workers
        )
    dataset = ClipDataset(clips, names, labels, recipe.augment, recipe.seed)
    frames = [clips.frames(name) for name in names]
    sampler = LengthSampler(frames, recipe.training.batch_size, recipe.seed)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers)


def _write_bundle(module: _Module, recipe: Recipe, data: Data, run: Path, epoch: int) -> BundleSpec:
    logits = _logits(module.net, recipe, data)
    labels = data.validation["stalled"].to_numpy(dtype=np.int64)
    calibration = decide.fit_calibration(logits, labels)
    scores = calibration.score(logits)
    threshold = decide.best_mcc_threshold(scores, labels)
    scored = metrics.Scored.check(labels, scores, scores >= threshold, (threshold,))
    measured = asdict(metrics.measure(scored))
    measured["confusion"] = metrics.measure(scored).confusion._asdict()
    frames = [data.store.frames(name) for name in data.train["filename"]]
    spec = BundleSpec(
        name=recipe.name,
        outline=recipe.outline,
        clip=recipe.clip,
        net=recipe.net,
        calibration=calibration,
        threshold=threshold,
        prevalence=float(labels.mean()),
        frames=(min(frames), max(frames)),
        simulated=data.simulated,
        metrics={"validation": measured},
        provenance={
            **files.provenance(),
            "recipe": recipe.model_dump(mode="json"),
            "data_sha256": data.sha256,
            "trained_on": len(data.train),
            "validated_on": len(data.validation),
            "best_epoch": epoch,
            "torch": torch.__version__,
        },
    )
    table = data.validation[["filename", "stalled"]].assign(
        logit=logits, score=scores, call=[decide.call(score, threshold) for score in scores]
    )
    files.write_text(run / "validation.csv", table.to_csv(index=False))
    return bundles.save(run / "bundle", spec, module.net.state_dict(), _card(spec))


@torch.inference_mode()
def _logits(net: torch.nn.Module, recipe: Recipe, data: Data) -> NDArray[np.float64]:
    """Logits of the validation part in float32, as prediction computes them."""
    net = net.eval().float().cpu()
    loader = _loader(recipe, data.store, data.validation, augment=False)
    return np.array([float(net(batch.inputs)[0]) for batch in loader])


def _card(spec: BundleSpec) -> str:
    """Model card: what the bundle is, what it was trained on, and what its figures mean."""
    template = jinja2.Template(
        CARD.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    text: str = template.render(spec=spec, measured=spec.metrics["validation"])
    return text + "\n"
