"""One readable module per task, found through the entry-point group ``famseg.pipelines``."""
