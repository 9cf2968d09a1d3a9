"""`brokerctl`: the commands, one module each.

Exit statuses: 0 done; 1 the broker said no, or something was found wrong; 2 wrong use of the
command; 3 no broker answers; 130 interrupted.
"""

from __future__ import annotations

import click

from broker_client import __version__
from brokerctl.agents import agents
from brokerctl.block import block
from brokerctl.boost import boost
from brokerctl.cancel import cancel
from brokerctl.config import config
from brokerctl.demo.command import demo
from brokerctl.doctor import doctor
from brokerctl.drain import drain
from brokerctl.explain import explain
from brokerctl.generate import generate
from brokerctl.models import models
from brokerctl.pause import pause
from brokerctl.quota import quota
from brokerctl.reload import reload
from brokerctl.resume import resume
from brokerctl.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brokerctl")
def main() -> None:
    """Use, watch and look after a broker.

    \b
    Exit status: 0 done; 1 the broker said no, or something was found wrong;
    2 wrong use; 3 no broker answers; 130 interrupted.
    """


for each in (
    *(agents, block, boost, cancel, config, demo, doctor, drain),
    *(explain, generate, models, pause, quota, reload, resume, status),
):
    main.add_command(each)


if __name__ == "__main__":
    main()
