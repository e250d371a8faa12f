"""Writes qwen_text.json and qwen_tiny/: what transformers says of the Qwen corpus.

Run where transformers, torch, torchvision and dashscope are installed, with the chat
template of a Qwen3-VL checkpoint (a .jinja, or the .json that holds it):

    python tests/golden/make_qwen_text.py chat_template.jinja

The values change only if the corpus does, or if transformers changes what it does.
"""

import json
import sys
from pathlib import Path

import qwen_corpus as corpus
import qwen_vocab
import transformers

HERE = Path(__file__).parent
# Few enough to commit; 256 bytes, then the pieces that Qwen learned first.
PIECES = 700
SIZES = [(40, 64), (70, 33)]
FRAMES = [(5, 64, 96), (4, 40, 40)]
INDICES = [[0, 7, 15, 22, 30], [3, 4, 9, 11]]
FPS = [29.97, 8.0]


def main(template_file: str) -> None:
    template = Path(template_file).read_text(encoding="utf-8")
    if template_file.endswith(".json"):
        template = json.loads(template)["chat_template"]
    folder = qwen_vocab.write_folder(
        HERE / "qwen_tiny", qwen_vocab.tokenizer_json(qwen_vocab.read_ranks(), PIECES)
    )
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(folder)
    size = {"shortest_edge": 1024, "longest_edge": 4096}
    shared = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": size,
    }
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(
            **shared, do_sample_frames=False, cap_pixels_per_frame=False
        ),
        chat_template=template,
    )
    result = {
        "transformers": transformers.__version__,
        "ids": [tokenizer(text)["input_ids"] for text in corpus.TEXTS],
        "prompts": {
            name: {
                f"{generate:d}{number:d}": processor.apply_chat_template(
                    messages,
                    add_generation_prompt=generate,
                    add_vision_id=number,
                )
                for generate in (False, True)
                for number in (False, True)
            }
            for name, messages in corpus.CONVERSATIONS.items()
        },
        "inputs": {
            name: _inputs(processor, name)
            for name in ("images", "turns", "video", "mixed")
        },
    }
    text = json.dumps(result, ensure_ascii=True, indent=None, separators=(",", ":"))
    (HERE / "qwen_text.json").write_text(text.replace('],"', '],\n"') + "\n")


def _inputs(processor: transformers.Qwen3VLProcessor, name: str) -> dict:
    messages = corpus.CONVERSATIONS[name]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    images = [corpus.picture(*s) for s in SIZES[: prompt.count("<|image_pad|>")]]
    shapes = FRAMES[: prompt.count("<|video_pad|>")]
    metadata = [
        {"total_num_frames": 100, "fps": fps, "frames_indices": list(indices)}
        for fps, indices in zip(FPS, INDICES, strict=True)
    ]
    found = processor(
        text=[prompt],
        images=images or None,
        videos=[corpus.clip(*s) for s in shapes] or None,
        video_metadata=metadata[: len(shapes)] or None,
    )
    grids = {
        key: found[key].tolist()
        for key in ("image_grid_thw", "video_grid_thw")
        if key in found
    }
    return {"ids": list(map(int, found["input_ids"][0])), **grids}


if __name__ == "__main__":
    main(*sys.argv[1:])
