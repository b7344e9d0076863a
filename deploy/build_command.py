"""`molmoact-flash build`: a signed release in a folder, for many devices or for later."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.device.interpreter import SUPPORTED
from deploy.host_arguments import say
from deploy.push import mib
from deploy.release_build import ReleaseOptions, build_release
from deploy.signing import default_key


def add_build(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "build",
        help="build and sign a release in a folder",
        description="Collect wheels for a device's processor and Python, the bundle, profile, "
        "service and agent by content, and sign the list.",
        epilog="example: molmoact-flash build release/ --bundle bundle/ --profile so101 "
        "--machine aarch64 --python 3.10",
    )
    command.add_argument("release", type=Path, help="folder to write; must not exist")
    command.add_argument("--machine", choices=("aarch64", "x86_64"), default="aarch64")
    command.add_argument("--python", choices=SUPPORTED, default="3.10", help="default 3.10")
    add_contents(command, required=True)


def add_contents(command: argparse.ArgumentParser, required: bool) -> None:
    """Describe what a release is made of."""
    command.add_argument("--bundle", type=Path, required=required, help="from 'molmoact-quantize'")
    command.add_argument("--profile", required=required, help="shipped name, or a .yaml path")
    command.add_argument(
        "--sign",
        type=Path,
        default=default_key(),
        metavar="KEY",
        help=f"private key, or the .pub of one in ssh-agent (default {default_key()})",
    )
    command.add_argument("--name", help="of the release (default: the profile's)")
    command.add_argument(
        "--wheel",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="instead of the package of its name; NVIDIA's onnxruntime_gpu for a JetPack",
    )


def options_from(args: argparse.Namespace, machine: str, python: str) -> ReleaseOptions:
    """Return what was asked for, typed."""
    return ReleaseOptions(
        bundle=args.bundle,
        profile=args.profile,
        machine=machine,
        python=python,
        key=args.sign,
        name=args.name,
        wheels=tuple(args.wheel),
    )


def run_build(args: argparse.Namespace) -> None:
    """Build; FlashError says what does not fit."""
    options = options_from(args, args.machine, args.python)
    release = build_release(options, args.release, say)
    files, size = len(release.manifest.files), mib(release.total_bytes)
    print(f"{args.release}: {release.manifest.id}, {files} files, {size}")
