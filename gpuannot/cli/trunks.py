"""``gpuannot trunks``: which networks can be the trunk, and what each costs and gives."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.table import Table

from ..errors import GpuannotError, InvalidArgumentError, WeightsError
from .exit import errors_to_exit_code, notes
from .options import AsJson
from .tables import output, plain


@errors_to_exit_code
def trunks(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Such as 'timm:vit_small*', 'timm:resnet50@layer2' or 'torchvision:resnet50@layer3'."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show trunks: parameters, arithmetic and features of an image. Nothing is downloaded.

    Without a name those whose weights are on this machine: VGG-16, which is in the package, and timm's networks in the hub's cache.
    A trunk is used by --set trunk=NAME where settings are taken.
    """
    from ..method.trunks.summary import summarise

    found, left_out = [], []
    for name in _expanded(names):
        try:
            found.append(summarise(name))
        except GpuannotError as error:
            if names and name in names:
                raise
            left_out.append(f"{name}: {error}")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for title in ("trunk", "layer", "input", "parameters", "GFLOP an image", "features P × C"):
            table.add_column(title, justify="left" if title in ("trunk", "layer") else "right", no_wrap=True)
        for one in found:
            size, shape = f"{one.input_size} × {one.input_size}", f"{one.patches} × {one.channels}"
            millions = f"{one.parameters / 1e6:.1f} M"
            table.add_row(plain(one.trunk), plain(one.layer), size, millions, f"{one.gflop:.1f}", shape)
        output.print(table)
    for line in left_out:
        notes.print(plain(line))
    if names is None:
        notes.print(plain(_more()))


def _expanded(names: list[str] | None) -> list[str]:
    from ..method.trunks import timm_models

    if names is None:
        return ["vgg16", *(f"timm:{name}" for name in (timm_models.on_disk() if timm_models.version() and _imports() else ()))]
    expanded: list[str] = []
    for name in names:
        if "*" not in name:
            expanded.append(name)
            continue
        source, _, pattern = name.partition(":")
        if source != "timm":
            raise InvalidArgumentError(f"{name}: patterns are for networks of timm, such as 'timm:vit_small*'")
        known = timm_models.library().list_models(pattern)
        if not known:
            raise InvalidArgumentError(f"{name}: timm has no network of that pattern")
        expanded.extend(f"timm:{one}" for one in known)
    return expanded


def _imports() -> bool:
    from ..method.trunks import timm_models

    try:
        timm_models.library()
    except WeightsError:
        return False
    return True


def _more() -> str:
    from ..method.trunks import timm_models

    try:
        timm = timm_models.library()
    except WeightsError as error:
        return str(error)
    folders = " and ".join(timm_models.cache_folders())
    return (
        f"timm {timm.__version__} has {len(timm.list_models())} networks: gpuannot trunks 'timm:*dinov2*' shows some; weights are "
        f"looked for in {folders}, and downloaded by timm when a fit or a model names a trunk whose weights are not there"
    )
