"""What the demo refuses before anything is loaded. Its page is test_pages_in_a_browser.py's."""

import sys

import pytest

from cgan_jax.errors import ConfigError
from experiments.demo import import_gradio, listen


def test_a_busy_port_is_named():
    with listen("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: .* in use.*\n.*free port"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigError, match=r"nothing can listen on '192\.0\.2\.1'"):
        listen("192.0.2.1", 0)


def test_a_page_needs_gradio(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "before")
    with pytest.raises(ConfigError, match=r"needs Gradio.*\n.*\n.*pip install -e '\.\[demo\]'"):
        import_gradio(str(tmp_path))
