import numpy as np
import pytest

from edge.joint_frame import JointFrame
from edge.profile import load_profile

ARM = load_profile("so101").arm


def test_round_trip_returns_every_position():
    frame = JointFrame(ARM.signs, ARM.offsets_deg)
    positions = np.random.default_rng(0).uniform(-180.0, 180.0, (50, frame.n_joints))
    back = frame.arm_from_model(frame.model_from_arm(positions))
    np.testing.assert_allclose(back, positions, atol=1e-12)


def test_shipped_arm_speaks_the_old_convention_of_the_released_checkpoint():
    frame = JointFrame(ARM.signs, ARM.offsets_deg)
    arm = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    # lift_old = 90 - lift_new, elbow_old = elbow_new + 90, the rest alike.
    np.testing.assert_allclose(frame.model_from_arm(arm), [10.0, 70.0, 120.0, 40.0, 50.0, 60.0])


def test_signs_other_than_one_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="each must be 1 or -1"):
        JointFrame((1.0, 0.5), (0.0, 0.0))
    with pytest.raises(ValueError, match="2 joint signs and 1 offsets"):
        JointFrame((1.0, 1.0), (0.0,))
