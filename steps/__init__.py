import signal
import sys

# While Python looks for `-m steps.<step>`: what a step imports first takes a second, and Ctrl-C in it shows no traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *given: sys.exit(130))
