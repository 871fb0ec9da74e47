"""What one process learns, all know one step later."""

import os
import signal

from train.mesh import MeshShape, make_mesh
from train.votes import Motions, Votes, signals


def test_votes_are_known_one_cast_later_and_only_once():
    votes = Votes(make_mesh(MeshShape(data=8)), Motions())
    votes.own.save = True
    assert votes.cast() == Motions()
    assert votes.cast() == Motions(save=True)
    assert votes.cast() == Motions()


def test_what_nobody_acted_upon_is_cast_again():
    votes = Votes(make_mesh(MeshShape(data=8)), Motions())
    votes.own.save = votes.own.profile = True
    votes.cast()
    votes.repeat(votes.cast())
    votes.cast()
    assert votes.cast() == Motions(save=True, profile=True)


def test_a_signal_to_stop_stays():
    with signals() as motions:
        votes = Votes(make_mesh(MeshShape(data=8)), motions)
        votes.cast()
        os.kill(os.getpid(), signal.SIGTERM)
        votes.cast()
        assert votes.cast().stop and votes.cast().stop
