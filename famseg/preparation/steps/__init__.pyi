from ._prepare import prepare_scan as prepare_scan
