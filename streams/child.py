"""A child process that cannot outlive us, with its output kept for when something goes wrong."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

LOG_TAIL_BYTES = 4_000

# We hold the only writing end of the pipe on standard input; a reader beside the program ends it
# when that closes, which the kernel does for us even if we are killed and can run nothing more.
# ($$ is the shell's own process, which the program takes over by exec.)
END_WITH_PARENT = 'exec 3<&0; { read -r _ <&3; kill $$; } 2>/dev/null & exec "$@" 3<&- </dev/null'


class Child:
    """One running program, ended by ``stop`` or by the end of this process, however that comes."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        is_quiet: bool = True,
    ) -> None:
        """Start the program; a quiet one's output is kept, another's goes where ours does."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open until ``stop``
        self._last_words = ""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", END_WITH_PARENT, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=self._log if is_quiet else None,
            stderr=subprocess.STDOUT if is_quiet else None,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            env=env,
        )

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or ``None`` while the program runs."""
        return self._process.poll()

    def wait(self, limit_s: float | None = None) -> int:
        """Return the exit status once the program has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on after ``limit_s``.
        """
        return self._process.wait(limit_s)

    def hang_up(self) -> None:
        """Ask the program to end: the reader beside it sends SIGTERM."""
        if self._process.stdin:
            self._process.stdin.close()

    def stop(self, *, limit_s: float) -> int:
        """End the program, by force after ``limit_s``, and return its exit status."""
        self.hang_up()
        try:
            status = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._last_words = self.log_tail()
        self._log.close()
        return status

    def log_tail(self) -> str:
        """Return the last lines the program wrote."""
        if self._log.closed:
            return self._last_words
        # Read in place: to seek would move the program's own writing position.
        descriptor = self._log.fileno()
        start = max(0, os.fstat(descriptor).st_size - LOG_TAIL_BYTES)
        return os.pread(descriptor, LOG_TAIL_BYTES, start).decode(errors="replace").strip()
