"""Names of classes that are written beside a network, as its tools write them."""

import pytest

from app.engines.network_facts import find_class_names


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"names": "{0: 'a', 1: 'b'}"}, ("a", "b")),
        ({"config": '{"id2label": {"0": "a", "1": "b"}, "use_cache": true}'}, ("a", "b")),
        ({"names": '["c", "d"]', "classes": '["a", "b"]'}, ("a", "b")),  # of two keys the first by name, in any process
        ({"names": "{[]: 1}"}, None),
        ({"names": "[" * 50_000}, None),
    ],
)
def test_names_are_found_in_json_and_in_pythons_texts(
    metadata: dict[str, object], names: tuple[str, ...] | None
) -> None:
    assert find_class_names(metadata) == names
