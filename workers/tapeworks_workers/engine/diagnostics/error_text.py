"""What an exception says, in as many words as a reader needs: TensorFlow and Keras put whole stacks into theirs."""

from __future__ import annotations

import re


def text(error: BaseException) -> str:
    """What an exception says, without the frames that Keras, AutoGraph and a running graph put around it."""
    return cleaned(str(error))


def cleaned(message: str) -> str:
    """A message without stacks, colours and names of graph nodes."""
    message = re.split(r"\n+Arguments received by |\n+Call arguments received by |\nStack trace for op", message)[0]
    message = re.sub(r"Graph execution error:\n+|Detected at node [^\n]*\n+(\s*File [^\n]*\n+)*", "", message)
    message = re.sub(r"\s*\[\[\{\{.*", "", message, flags=re.DOTALL)
    message = re.sub(r"Exception encountered when calling [^\n]*\n+", "", message)
    message = re.sub(r"Could not automatically infer .*?Error encountered:\n+", "", message, flags=re.DOTALL)
    message = re.sub(r"in user code:\n+(\s+File .*\n.*\n)*\s*", "", message)
    message = re.split(r"\n+Traceback \(most recent call last\):", message)[0]  # of a Python function in the graph
    message = re.sub(r"<stack traces unavailable>\s*", "", message)
    message = re.sub(r"for '(?:\{\{[^}]*\}\} )?= ?(\w+)\[[^\]]*\]\(.*?\)' with", r"in \1 with", message)
    message = re.sub(r"\{\{[^}]*\}\}\s*|\[Op:\w+\]\s*(name:)?|\x1b\[[0-9;]*m", "", message)
    return message.strip()
