"""List the published checkpoints, download them, and verify what is on disk.

    dino-nb zoo                         the table, with what is on disk
    dino-nb zoo dino-4scale-r50-12ep    download one (or several); prints its path
    dino-nb zoo --verify                read everything on disk again and compare it

The published file names, Drive links and ids, and other links are taken too. A download that was cut continues where it
broke when the command is given again.
"""

import argparse

from dino_nb.checkpoints import zoo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="what to download: a name of the table, a file name, a link, an id")
    parser.add_argument("--verify", action="store_true", help="check the files on disk (SHA-256 where published)")


def run(args: argparse.Namespace) -> int:
    for name in args.name:
        print(zoo.fetch(name))
    if args.verify:
        results = zoo.verify()
        for path, bad, verdict in results:
            print(f"{'BAD ' if bad else 'ok  '}  {path.name}  {verdict}")
        if not results:
            print(f"None of the published checkpoints is in {zoo.folder()}.")
        return int(any(bad for _, bad, _ in results))
    if not args.name:
        print(f"{zoo.table()}\n\nKept in {zoo.folder()}, published at {zoo.FOLDER_URL} (R50 also at {zoo.BAIDU}).")
        print("AP: boxes on COCO val2017, as published. Download one: dino-nb zoo NAME")
    return 0
