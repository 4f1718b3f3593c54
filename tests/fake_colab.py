"""A stand-in for ``google.colab``: a Drive that appears when it is mounted, uploads, and the widget switch."""

import sys
import types

from dino_nb import files


class FakeColab:
    """What the session was asked for.

    Attributes:
        mounts: places that Drive was mounted at. refuse: the error that the next mounts raise, or None.
        uploads: name -> bytes of the file that the user is going to choose; empty if they cancel.
        downloads: files that were sent to the user. secrets: name -> value of those that the notebook may read.
        widgets: whether ipywidgets were switched on.
    """

    def __init__(self):
        self.mounts, self.refuse, self.uploads, self.widgets = [], None, {}, False
        self.downloads, self.secrets = [], {}

    def mount(self, place):
        self.mounts.append(place)
        if self.refuse:
            raise self.refuse
        files.DRIVE.mkdir(parents=True, exist_ok=True)

    def upload(self):
        from pathlib import Path

        for name, data in self.uploads.items():
            Path(name).write_bytes(data)
        return self.uploads

    def enable_custom_widget_manager(self):
        self.widgets = True

    def install(self, monkeypatch):
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
        google = types.ModuleType("google")
        google.colab = types.ModuleType("google.colab")
        google.colab.drive = types.SimpleNamespace(mount=self.mount)
        google.colab.files = types.SimpleNamespace(upload=self.upload, download=self.downloads.append)
        google.colab.userdata = types.SimpleNamespace(get=lambda name: self.secrets[name])
        google.colab.output = types.SimpleNamespace(enable_custom_widget_manager=self.enable_custom_widget_manager)
        monkeypatch.setitem(sys.modules, "google", google)
        monkeypatch.setitem(sys.modules, "google.colab", google.colab)
