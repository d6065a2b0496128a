"""Compile the fused kernels for sm_90 (H100, H200), which needs no GPU: `python -m tests.helpers.compile_sm90`.

For the sizes of the README's model, in float32 (products in TF32) and bfloat16, prints one JSON line for each kernel:
registers, bytes of local memory, of shared memory, and how many instructions of tensor cores it has.
"""

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.kernels import fused

TOOLS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
SIZE, WORDS, REGIONS = 512, 60, 100
NAMES = ('pairs_forward', 'mix_forward', 'value_backward', 'logits_backward', 'pairs_backward', 'weight_backward')
# The types of parameters; others point to the model's.
POINTERS = {'Layout': '*i32', 'Keep': '*u8', 'factor': 'fp32',
            **dict.fromkeys(('images', 'words_of_each', 'most_regions'), 'i32'),
            **dict.fromkeys(('Logits', 'Sums', 'A', 'DLogits', 'DQ', 'DK', 'DW', 'DBias', 'DSpatial'), '*fp32')}


def kernels(dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each kernel and its constants, as training gives them, then those of decoding."""
    torch.set_float32_matmul_precision('high')
    blocks = fused.Blocks(torch.empty(1, SIZE, dtype=dtype), 1, WORDS, REGIONS)
    sizes = {'D': SIZE, 'H': SIZE // 2, 'P': blocks.P, 'PARTS': blocks.parts}
    for training in (True, False):
        for name in NAMES if training else NAMES[:2]:
            flags = {'DROP': training, 'KEEP_E': training, 'PADDED': not training}
            yield name, {**sizes, **getattr(blocks, name), **flags}


def compile_kernel(name: str, constants: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Compile a kernel -> what it takes."""
    kernel = getattr(fused, name)
    parameters = inspect.signature(kernel.fn).parameters
    is_constant = {one: 'constexpr' in str(parameter.annotation) for one, parameter in parameters.items()}
    signature = {one: 'constexpr' if is_constant[one] else POINTERS.get(one, f'*{model_type}') for one in parameters}
    places = {one: (place,) for place, one in enumerate(parameters)}
    values = {places[one]: constants[one] for one in parameters if is_constant[one]}
    aligned = {places[one]: [['tt.divisibility', 16]] for one, kind in signature.items() if kind.startswith('*')}
    compiled = triton.compile(ASTSource(kernel, signature, values, aligned), target=GPUTarget('cuda', 90, 32),
                              options={key: constants[key] for key in ('num_warps', 'num_stages')})
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        usage, code = (subprocess.run([TOOLS / 'cuobjdump', flag, file.name], capture_output=True, text=True,
                                      check=True).stdout for flag in ('--dump-resource-usage', '--dump-sass'))
    line = next(line for line in usage.splitlines() if 'REG:' in line)
    used = {key: int(number) for key, number in (part.split(':') for part in line.split() if part.count(':') == 1
                                                 and part.split(':')[1].isdigit())}
    return {'kernel': name + ' (decoding)' * constants['PADDED'], 'type': model_type, 'registers': used['REG'],
            'stack': used['STACK'], 'local': code.count('LDL') + code.count('STL'),
            'shared': compiled.metadata.shared, 'tensor cores': code.count('HGMMA') + code.count('HMMA')}


def main() -> None:
    """Compile all kernels in both types."""
    for dtype, name in ((torch.float32, 'fp32'), (torch.bfloat16, 'bf16')):
        for kernel, constants in kernels(dtype):
            print(json.dumps(compile_kernel(kernel, constants, name)), flush=True)


if __name__ == '__main__':
    sys.exit(main())
