"""`Gate`: so many predictions in work, and not one more."""

from app.server.gate import Gate


def test_model_has_so_many_places_and_others_have_theirs() -> None:
    gate = Gate(model_places=2, all_places=3)
    first, second = gate.enter("/predictions/a"), gate.enter("/predictions/a/1.0")
    assert first == second == "a"
    assert gate.enter("/predictions/a") is None
    assert gate.enter("/predictions/b") == "b"
    assert gate.enter("/predictions/c") is None
    gate.leave("a")
    assert gate.enter("/predictions/c") == "c"


def test_what_is_no_prediction_always_comes_in() -> None:
    gate = Gate(model_places=1, all_places=1)
    assert gate.enter("/predictions/a") == "a"
    for path in ("/health/live", "/models/a", "/predictions", "/"):
        place = gate.enter(path)
        assert place == ""
        gate.leave(place)
    assert gate.enter("/predictions/a") is None


def test_path_without_a_model_takes_no_place() -> None:
    gate = Gate(model_places=1, all_places=1)
    for path in ("/predictions/", "/predictions//x", "/predictions/") * 3:
        place = gate.enter(path)
        assert place == ""
        gate.leave(place)
    assert gate.enter("/predictions/a") == "a"
