"""One readable module a task; found through the entry-point group ``famseg.pipelines``."""
