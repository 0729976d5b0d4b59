"""Writing of 3MF files, ZIP archives of XML, according to the 3MF core specification 1.3."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from famseg.meshes._mesh import Mesh

_DIGITS = 4  # decimal places of a coordinate in mm: 0.1 micrometers
_TYPES = """\
<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">\
<Default Extension="rels" \
ContentType="application/vnd.openxmlformats-package.relationships+xml"/>\
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>\
</Types>
"""
_RELATIONS = """\
<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">\
<Relationship Target="/3D/3dmodel.model" Id="rel0" \
Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>\
</Relationships>
"""
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date in a ZIP archive, for reproducible bytes


def three_mf(parts: Mapping[str, Mesh], *, description: str) -> bytes:
    """Return a 3MF file of named parts, in millimeters.

    Args:
        parts: Meshes by name. Those that enclose a volume become objects of type ``model``, which
            printers fill; open ones of type ``surface``.
        description: The metadata field of that name.

    Raises:
        ValueError: If a name holds characters that XML does not allow.
    """
    bad = next((name for name in parts if _NOT_IN_XML.search(name)), None)
    if bad is not None:
        raise ValueError(f"{bad!r} cannot be the name of a part: it contains control characters")
    model = "".join(_model(parts, description)).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in (
            ("[Content_Types].xml", _TYPES.encode()),
            ("_rels/.rels", _RELATIONS.encode()),
            ("3D/3dmodel.model", model),
        ):
            entry = zipfile.ZipInfo(name, date_time=_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # the same on Windows
            file.writestr(entry, content, compresslevel=6)
    return archive.getvalue()


def _model(parts: Mapping[str, Mesh], description: str) -> Iterable[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield '<model unit="millimeter" xml:lang="en-US" '
    yield 'xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02">\n'
    yield '<metadata name="Application">famseg</metadata>\n'
    yield f'<metadata name="Description">{escape(description)}</metadata>\n<resources>\n'
    for number, (name, mesh) in enumerate(parts.items(), start=1):
        kind = "model" if mesh.is_watertight and mesh.volume_mm3 > 0 else "surface"
        yield f'<object id="{number}" type="{kind}" name={quoteattr(name)}><mesh>\n'
        yield from _triangles(mesh)
        yield "</mesh></object>\n"
    yield "</resources>\n<build>\n"
    for number in range(1, len(parts) + 1):
        yield f'<item objectid="{number}"/>\n'
    yield "</build>\n</model>\n"


def _triangles(mesh: Mesh) -> Iterable[str]:
    yield "<vertices>\n"
    line = f'<vertex x="%.{_DIGITS}f" y="%.{_DIGITS}f" z="%.{_DIGITS}f"/>\n'
    rounded = np.round(mesh.vertices, _DIGITS) + 0.0  # no -0.0000
    yield "".join([line % (x, y, z) for x, y, z in rounded.tolist()])
    yield "</vertices>\n<triangles>\n"
    # The specification forbids triangles that use a vertex twice.
    a, b, c = mesh.faces.T
    faces = mesh.faces[(a != b) & (b != c) & (a != c)]
    line = '<triangle v1="%d" v2="%d" v3="%d"/>\n'
    yield "".join([line % (i, j, k) for i, j, k in faces.tolist()])
    yield "</triangles>\n"
