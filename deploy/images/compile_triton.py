"""Compiles the C module by which Triton starts kernels, into Triton's cache, on a machine without a GPU.

    TRITON_CACHE_DIR=/opt/triton python compile_triton.py

The cache goes by the source and the platform alone, so a machine with a GPU finds it there and needs no compiler.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from triton.backends.nvidia import driver
from triton.runtime.build import compile_module_from_src


def main() -> None:
    """Compiles it, as `triton.backends.nvidia.driver.CudaUtils` does."""
    folder = Path(driver.__file__).parent
    with tempfile.TemporaryDirectory() as stub:
        # The linker wants a driver's library, the module only its name.
        library = Path(stub) / driver.libraries[0]
        command = ["gcc", "-shared", f"-Wl,-soname,{library.name}", "-o", str(library), "-x", "c", "/dev/null"]
        subprocess.run(command, check=True)
        try:
            compile_module_from_src(
                src=(folder / "driver.c").read_text(),
                name="cuda_utils",
                library_dirs=[stub],
                include_dirs=driver.include_dirs,
                libraries=[],
                # The stub has no function that the module would be linked for.
                ccflags=["-Wl,--no-as-needed", f"-l:{library.name}"],
            )
        except ImportError as error:  # it is compiled then; loading it takes a driver
            if driver.libraries[0] not in str(error):
                raise


if __name__ == "__main__":
    main()
