"""What the Qwen golden values and parity tests are computed on: texts, conversations,
pictures."""

import numpy as np

TEXTS = (
    "",
    "lift the red cube",
    "Lift the RED cube, don't drop it; they've 2 cubes & I'm sure we'll see'em.",
    "<think> gripper nearer </think><answer>+040%</answer>",
    "progress 0% -50% 100% 3.14159 1234567890 ½ ² Ⅷ ١٢٣",
    "  leading, trailing and   inner   blanks  ",
    "tabs\tand\n\nlines\r\n  \r\n\n   indented\n",
    " \u00a0\u2003\u3000 odd blanks \u200b\u200d",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # naïve\n\tassert x != 0\n",
    'if (a<b && c>=d) { printf("%s\\n", s[i++]); } /* §12 */',
    "Grüße aus Köln: Straße, Œuvre, Ångström, ÿ",
    "机器人把红色方块放进抽屉里，然后关上抽屉。",
    "ロボットは赤い立方体を持ち上げる。カタカナ ﾊﾝｶｸ",
    "로봇이 빨간 큐브를 들어 올립니다",
    "Робот поднимает красный кубик; їжак",
    "الروبوت يرفع المكعب الأحمر",
    "רובוט מרים קובייה",
    "रोबोट लाल घन उठाता है",
    "หุ่นยนต์ยกลูกบาศก์สีแดง",
    "🤖🧊 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ☃️",
    "e\u0301 a\u0308 o\u0302\u0301 \u1112\u1161\u11ab \u212b \ufb01 \u0958 q\u0323\u0307",
    "<|im_start|>user\nLook: <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n",
    "<|im_start|> <|endoftext|>x<|im_end|>\n\n<|im_end|> <tool_call>{}</tool_call>",
    "<|not_a_token|> <|im_start| > <im_end>",
    "a" * 200 + " " * 50 + "!?" * 30,
    "http://example.org/~user/?q=1&r=%20#top user@example.org C:\\dir\\file.txt",
    "\x00\x07\x1b[0m \ufffd \U0010ffff",
)

CONVERSATIONS = {
    "text": [{"role": "user", "content": "What is this?"}],
    "image": [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "text", "text": "How far is the task?"},
            ],
        }
    ],
    "system": [
        {"role": "system", "content": "You judge progress."},
        {"role": "user", "content": [{"type": "text", "text": "Ready?"}]},
    ],
    "system_parts": [
        {
            "role": "system",
            "content": [{"type": "text", "text": "A"}, {"type": "text", "text": " B"}],
        },
        {"role": "user", "content": "C"},
    ],
    "images": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First:\n"},
                {"type": "image"},
                {"type": "text", "text": "then\n"},
                {"type": "image"},
                {"type": "text", "text": " compare."},
            ],
        }
    ],
    "turns": [
        {"role": "system", "content": "  Be short. \n"},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "Progress?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "40%"}]},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "And now?"}],
        },
        {"role": "assistant", "content": "<answer>80%</answer>"},
        {"role": "user", "content": "Sure?"},
    ],
    "video": [
        {
            "role": "user",
            "content": [
                {"type": "video"},
                {"type": "text", "text": "Did it succeed?"},
            ],
        }
    ],
    "mixed": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Goal: "},
                {"type": "image"},
                {"type": "text", "text": " seen\n"},
                {"type": "video"},
                {"type": "text", "text": " and "},
                {"type": "video"},
                {"type": "text", "text": " <b>&\n"},
            ],
        },
        {"role": "assistant", "content": "Done."},
    ],
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with edges, gradients, saturated areas and noise: uint8 [H, W, 3].

    The same on every machine: whole numbers only.
    """
    y, x = np.mgrid[:height, :width].astype(np.int64)
    noise = (x * 7919 + y * 104729 + (x * y + seed) * 1299709) % 251
    stripes = 255 * (((x + 2 * y + seed) // 5) % 2)
    slope = (x * 255 // max(width - 1, 1) + y * 3 + seed) % 256
    blocks = 255 * (((x // 11) + (y // 7)) % 2)
    red = np.where((x // 16 + y // 16) % 3 == 0, noise, stripes)
    green = np.where((x // 20) % 2 == 0, slope, blocks)
    return np.stack([red, green, (noise + slope) // 2], axis=-1).astype(np.uint8)


def clip(frames: int, height: int, width: int) -> np.ndarray:
    """A video of such pictures: uint8 [T, H, W, 3]."""
    return np.stack([picture(height, width, 13 * t) for t in range(frames)])


# name -> height, width; what paper and task care about, and odd sizes.
IMAGES = {
    "tiny": (29, 31),
    "two-view composite": (773, 1162),
    "tall": (1162, 773),
    "as it is": (256, 256),
    "wide": (20, 1000),
    "one pixel high": (1, 200),
    "camera": (480, 640),
}
# name -> frames, height, width.
VIDEOS = {
    "four": (4, 120, 160),
    "odd": (5, 96, 130),
    "two tiny": (2, 20, 50),
    "three": (3, 224, 224),
}
