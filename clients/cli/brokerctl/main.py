"""`brokerctl`: the commands, one module each.

Exit statuses: 0 done; 1 the broker said no, or something was found wrong; 2 wrong use of the
command; 3 no broker answers; 130 interrupted.
"""

from __future__ import annotations

import click

from broker_client import __version__
from brokerctl.config import config
from brokerctl.demo.command import demo
from brokerctl.doctor import doctor
from brokerctl.drain import drain
from brokerctl.generate import generate
from brokerctl.models import models
from brokerctl.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brokerctl")
def main() -> None:
    """Use, watch and look after a broker.

    \b
    Exit status: 0 done; 1 the broker said no, or something was found wrong;
    2 wrong use; 3 no broker answers; 130 interrupted.
    """


for each in (config, demo, doctor, drain, generate, models, status):
    main.add_command(each)


if __name__ == "__main__":
    main()
