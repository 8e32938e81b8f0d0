import pytest

from gdmnet.cluster import (
    ClusterError,
    ProcessRank,
    chosen_part,
    first_host,
    part_from_environment,
    rank_from_environment,
)

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node01",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "4000123",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "13",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


def test_torchrun_says_which_process_this_is():
    assert rank_from_environment(TORCHRUN) == ProcessRank(3, 4, 1, 2, "env://")


def test_srun_says_which_process_this_is_and_the_first_node_is_where_all_meet():
    assert rank_from_environment(SRUN) == ProcessRank(5, 7, 1, 3, "tcp://gpu07:20123")


def test_an_address_that_is_given_is_taken():
    rank = rank_from_environment(SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4321"})
    assert rank is not None
    assert rank.meeting == "tcp://10.0.0.1:4321"


def test_a_restarted_training_says_so():
    for environment in (
        TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "2"},
        SRUN | {"SLURM_RESTART_COUNT": "2"},
    ):
        rank = rank_from_environment(environment)
        assert rank is not None
        assert rank.restarts == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"},  # batch script
        SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"},
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
    ],
)
def test_alone_is_alone(environment):
    assert rank_from_environment(environment) is None
    assert part_from_environment(environment) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "wrong"),
    [
        (TORCHRUN | {"RANK": "4"}, "contradicts itself"),
        (TORCHRUN | {"LOCAL_RANK": "x"}, "LOCAL_RANK='x'"),
        ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_RANK"}, "LOCAL_RANK=None"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_JOB_NODELIST"}, "no machine"),
    ],
)
def test_what_a_launcher_never_says_is_refused(environment, wrong):
    with pytest.raises(ClusterError, match=wrong):
        rank_from_environment(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node03", "node03"),
        ("node03,node04", "node03"),
        ("node[03-06,09],login1", "node03"),
        ("rack1-[7,9]-ib", "rack1-7-ib"),
        ("rack[1-2]node[04,06]", "rack1node04"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_tasks_of_an_array_or_of_a_step_share_the_cases():
    assert part_from_environment(ARRAY) == (2, 4)
    assert part_from_environment(SRUN) == (5, 7)


def test_an_array_with_gaps_would_leave_cases_out():
    with pytest.raises(ClusterError, match="without gaps"):
        part_from_environment(ARRAY | {"SLURM_ARRAY_TASK_MAX": "14"})


def test_a_part_is_named_or_the_launchers(monkeypatch):
    assert chosen_part(4, 3) == (3, 4)
    assert chosen_part(4, None) == (0, 4)
    for number, part in ((None, 1), (4, 4), (2, -1)):
        with pytest.raises(ClusterError, match=f"--part-id {part}"):
            chosen_part(number, part)
    for name, value in ARRAY.items():
        monkeypatch.setenv(name, value)
    assert chosen_part(None, None) == (2, 4)
    assert chosen_part(1, None) == (0, 1)
