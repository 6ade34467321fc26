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


def test_every_way_of_asking_for_a_prediction_counts_for_its_model() -> None:
    gate = Gate(model_places=9, all_places=9)
    for path in (
        "/predictions/a/1.0/more/of/it",
        "/models/a/invoke",
        "/a/predict",
        "/a/1.0/predict",
        "/predictions/a",
        "/v2/models/a/infer",
        "/v2/models/a/versions/1.0/infer",
        "/v2/models/a/infer/",
        "/v1/models/a:predict",
    ):
        assert gate.enter(path) == "a"
    assert gate.enter("/v1/models/a:predict") is None


def test_what_the_protocols_ask_of_a_model_besides_takes_no_place() -> None:
    gate = Gate(model_places=0, all_places=0)
    for path in (
        "/v2",
        "/v2/health/ready",
        "/v2/models/a",
        "/v2/models/a/ready",
        "/v2/models/a/versions/1.0",
        "/v2/models/infer",
        "/v2/models//infer",
        "/v2/repository/index",
        "/v1/models/a",
        "/v1/models/:predict",
        "/v2/models/a/infer\n",
    ):
        assert gate.enter(path) == ""


def test_path_without_a_model_takes_no_place() -> None:
    gate = Gate(model_places=1, all_places=1)
    for path in ("/predictions/", "/predictions//x", "/predictions/") * 3:
        place = gate.enter(path)
        assert place == ""
        gate.leave(place)
    assert gate.enter("/predictions/a") == "a"
