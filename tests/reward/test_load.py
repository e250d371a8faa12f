"""Names of rewarders, and what is said to a wrong one."""

import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.reward.load import load_rewarder
from soler1_jax.reward.vlm import VLMSettings


@pytest.mark.parametrize("name", ["oracle", "random", "time"])
def test_baselines_by_name(name):
    assert load_rewarder(name).name == name


def test_a_misspelt_name_gets_a_hint():
    with pytest.raises(UserError, match="got 'oracel'.*did you mean 'oracle'"):
        load_rewarder("oracel")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_rewarder(str(tmp_path))


@pytest.mark.parametrize("wrong", [{"readout": "median"}, {"thought_budget": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        VLMSettings(**wrong)
