from __future__ import annotations

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from famseg.datasets import (
    BoxConfig,
    BoxDefect,
    DataConfig,
    DefectConfig,
    DefectsConfig,
    FilesConfig,
    FolderData,
    PhantomData,
    RegionConfig,
    RegionDefect,
    SkullBreakConfig,
    SkullBreakDefect,
    SphereConfig,
    SphereDefect,
    SpheresConfig,
    SpheresDefect,
)

SECTIONS = [
    PhantomData,
    FolderData,
    DefectsConfig,
    SpheresConfig,
    BoxConfig,
    SphereConfig,
    RegionConfig,
    SkullBreakConfig,
    FilesConfig,
]
NEEDED = {
    FolderData: {"root": "x"},
    FilesConfig: {"root": "x"},
    RegionConfig: {"where": "random_1"},
}


def faults(section: type[BaseModel], values: dict[str, object]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        section.model_validate(values)
    return [error["msg"].removeprefix("Value error, ") for error in caught.value.errors()]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_described(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert field.description or name == "kind", f"{section.__name__}.{name}"


def test_sections_read_from_yaml_types() -> None:
    data = TypeAdapter(DataConfig).validate_python({"kind": "folder", "root": "x", "fit": "resize"})
    assert isinstance(data, FolderData)
    defect = TypeAdapter(DefectConfig).validate_python({"kind": "box", "size_mm": [20, 30.5]})
    assert isinstance(defect, BoxConfig)
    assert defect.size_mm == (20.0, 30.5)
    defects = DefectsConfig.model_validate(
        {"train": {"kind": "spheres", "spheres": [2, 4]}, "set2": {"kind": "sphere"}}
    )
    assert defects.train.spheres == (2, 4)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_survives_its_own_output(section: type[BaseModel]) -> None:
    one = section(**NEEDED.get(section, {}))
    assert section.model_validate(one.model_dump(mode="json", by_alias=True)) == one


def test_what_the_sections_build() -> None:
    assert SphereConfig(size_mm=(10.0, 20.0), elevation_deg=(0.0, 5.0)).build() == SphereDefect(
        size_mm=(10.0, 20.0), elevation_deg=(0.0, 5.0)
    )
    assert BoxConfig().build() == BoxDefect()
    assert RegionConfig(where="bilateral", area_cm2=(20.0, 80.0)).build() == RegionDefect(
        "bilateral", area_cm2=(20.0, 80.0)
    )
    section = SkullBreakConfig(classes=("random_1",), spread="lognormal", roughness_mm=2.0)
    assert section.build() == SkullBreakDefect(("random_1",), None, "lognormal", 2.0)
    assert SpheresConfig(spheres=(2, 3), deformation=0.1).build() == SpheresDefect(
        spheres=(2, 3), deformation=0.1
    )


def test_set_1_is_like_training_unless_told_otherwise() -> None:
    built = DefectsConfig(train=SphereConfig()).build()
    assert built["set1"] == built["train"] == SphereDefect()
    assert isinstance(built["set2"], BoxDefect)
    assert DefectsConfig(set1=BoxConfig()).build()["set1"] == BoxDefect()


def test_the_old_name_of_a_key_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    read = TypeAdapter(DataConfig).validate_python
    data = read({"kind": "folder", "root": "x", "centre": "head"})
    assert isinstance(data, FolderData)
    assert data.center == "head"
    assert "centre" not in data.model_dump()
    assert caplog.messages == [
        "data.centre is now data.center; the old name works in this version only"
    ]
    with pytest.raises(ValidationError, match="centre"):
        read({"kind": "folder", "root": "x", "centre": "head", "center": "keep"})


def test_training_takes_no_fixed_set() -> None:
    section = {"kind": "files", "root": "x"}
    assert isinstance(DefectsConfig.model_validate({"set1": section}).set1, FilesConfig)
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        DefectsConfig.model_validate({"train": section})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            BoxConfig,
            {"size_mm": [30, 20]},
            "size_mm: [30.0, 20.0] must be in rising order: swap the two numbers",
        ),
        (BoxConfig, {"size_mm": [0, 20]}, "size_mm: [0.0, 20.0] must be above 0 mm"),
        (
            SphereConfig,
            {"elevation_deg": [0, 100]},
            "elevation_deg: [0.0, 100.0] must be within -90 to 90",
        ),
        (
            SpheresConfig,
            {"spheres": [5, 3]},
            "spheres: [5, 3] must be in rising order: swap the two numbers",
        ),
        (
            SkullBreakConfig,
            {"area_cm2": [80, 20]},
            "area_cm2: [80.0, 20.0] must be in rising order: swap the two numbers",
        ),
        (
            SkullBreakConfig,
            {"area_cm2": [20, 800]},
            "area_cm2: [20.0, 800.0] must be above 0 and up to 200 cm2",
        ),
        (RegionConfig, {}, "Field required"),
        (SpheresConfig, {"spheres": [0, 3]}, "spheres: [0, 3] must be within 1 to 64"),
        (
            PhantomData,
            {"validation": 0.5, "test": 0.5},
            "validation 0.5 and test 0.5 leave nothing to train on: together they must be below 1",
        ),
        (PhantomData, {"subjects": 1}, "Input should be greater than or equal to 3"),
        (FolderData, {}, "Field required"),
        (FolderData, {"root": "x", "spacing_mm": 0}, "Input should be greater than 0"),
        (FolderData, {"root": "x", "size": "64"}, "Input should be a valid integer"),
        (FolderData, {"root": "x", "fit": "crop"}, "Input should be 'pad' or 'resize'"),
        (FolderData, {"root": "x", "rot": "y"}, "Extra inputs are not permitted"),
    ],
)
def test_faulty_values(section: type[BaseModel], values: dict[str, object], message: str) -> None:
    assert faults(section, values) == [message]
