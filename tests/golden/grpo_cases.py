"""Settings of the objective that TRL was asked about, by GrpoConfig's names.

`make_grpo.py` writes TRL's answers into `grpo.npz`; tests/training/test_grpo_golden.py
compares ours with them.
"""

from pathlib import Path

GOLDEN = Path(__file__).with_name("grpo.npz")
GROUPS, GROUP, TOKENS = 4, 4, 6
TEMPERATURE = 0.7

_PAPER = {"clip_low": 0.2, "clip_high": 0.28}
_GSPO = {"importance": "sequence", "loss": "grpo"}
_CORRECTED = {"correction_cap": 1.2}

CASES: dict[str, dict] = {
    "dapo": {},
    "grpo": {"loss": "grpo"},
    "dr_grpo": {"loss": "dr_grpo", "scale": "none"},
    "dapo-kl": {"kl": 0.3},
    "grpo-kl": {"loss": "grpo", "kl": 0.3},
    "dr_grpo-kl": {"loss": "dr_grpo", "kl": 0.3},
    "dapo-unbiased-kl": {"kl": 0.3, "unbiased_kl": True},
    "gspo-unbiased-kl": {**_GSPO, "kl": 0.3, "unbiased_kl": True},
    "symmetric-clip": {"clip_low": 0.1, "clip_high": 0.1},
    "scale-batch": {"scale": "batch"},
    "scale-none": {"scale": "none"},
    "gspo": {**_GSPO, "clip_low": 3e-4, "clip_high": 4e-4},
    "gspo-wide": {**_GSPO, "kl": 0.3},
    "gspo-dapo": {"importance": "sequence", "kl": 0.3},
    "gspo-dr_grpo": {"importance": "sequence", "loss": "dr_grpo"},
    "truncated-dapo": {"mask_truncated": True, "kl": 0.3},
    "truncated-grpo": {"mask_truncated": True, "loss": "grpo"},
    "truncated-dr_grpo": {"mask_truncated": True, "loss": "dr_grpo"},
    "truncated-gspo": {"mask_truncated": True, **_GSPO},
    "equal-dapo": {"drop_equal": True, "kl": 0.3},
    "equal-grpo": {"drop_equal": True, "loss": "grpo"},
    "equal-dr_grpo": {"drop_equal": True, "loss": "dr_grpo"},
    "equal-batch": {"drop_equal": True, "scale": "batch"},
    "equal-gspo": {"drop_equal": True, **_GSPO},
    "token_truncate": {"correction": "token_truncate", "kl": 0.3, **_CORRECTED},
    "token_mask": {"correction": "token_mask", **_CORRECTED},
    "sequence_truncate": {"correction": "sequence_truncate", **_CORRECTED},
    "sequence_mask": {"correction": "sequence_mask", "loss": "grpo", **_CORRECTED},
    "gspo-token_truncate": {"correction": "token_truncate", **_GSPO, **_CORRECTED},
    "truncated-sequence_truncate": {
        "correction": "sequence_truncate",
        "mask_truncated": True,
        **_CORRECTED,
    },
}
CASES = {name: _PAPER | case for name, case in CASES.items()}

# what TRL calls our "dapo" if a batch is not spread over several gradient steps
SYNONYMS = {"bnpo": "dapo"}
