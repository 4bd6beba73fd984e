"""A simulated OpenAI-compatible upstream whose answers are right or wrong on purpose."""

from optictl.simulator.behaviour import Behaviour
from optictl.simulator.faults import Fault
from optictl.simulator.log import Call, CallLog
from optictl.simulator.questions import distractor, gold
from optictl.simulator.server import Simulator, SimulatorThread

__all__ = [
    "Behaviour",
    "Call",
    "CallLog",
    "Fault",
    "Simulator",
    "SimulatorThread",
    "distractor",
    "gold",
]
