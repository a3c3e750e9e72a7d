"""One of several processes that train; a script whose argument is the run folder."""

from __future__ import annotations

import sys
from pathlib import Path


def main(run: str) -> int:
    from launch.process import set_up_process

    set_up_process()
    from distill.errors import UserError
    from distill.training.loop import train
    from launch import group

    try:
        train(Path(run))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        return 2
    except RuntimeError as error:
        if not group.is_lost_connection(error):
            raise
        print("This process stops because another one has ended; see the message of that process.", file=sys.stderr)
        return 1
    group.leave()
    return 0


if __name__ == "__main__":
    from launch.process import exit_with

    exit_with(lambda: main(sys.argv[1]))
