"""What to run, running it, and reading it back."""

from isoplast.study._directory import RunDirectory, Status
from isoplast.study._execute import Failed, Progress, execute
from isoplast.study._files import Busy
from isoplast.study._spec import Run, Switch

__all__ = ["Busy", "Failed", "Progress", "Run", "RunDirectory", "Status", "Switch", "execute"]
