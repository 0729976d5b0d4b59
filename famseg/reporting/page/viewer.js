"use strict";
// The interactive view of a case: slices and surfaces, drawn by NiiVue. The page holds everything:
// the library and the data are base64 text in script elements that no browser runs as they are.
(() => {
  const VIEWS = [
    ["All", "sliceTypeMultiplanar"],
    ["3D", "sliceTypeRender"],
    ["Axial", "sliceTypeAxial"],
    ["Coronal", "sliceTypeCoronal"],
    ["Sagittal", "sliceTypeSagittal"],
  ];
  // Azimuth and elevation in degrees of NiiVue's camera.
  const SIDES = [
    ["Front", 180, 5],
    ["Right", 270, 5],
    ["Left", 90, 5],
    ["Back", 0, 5],
    ["Top", 180, 90],
  ];
  const TURN = 10; // degrees per key
  const IN_SLICE_MM = 0.5; // how far from a slice a surface is drawn in it
  const SEE_THROUGH = 0.35; // opacity of surfaces around slices
  const HIDE_VOLUME = [-2, 0, 0]; // depth, azimuth and elevation of the clip plane
  const SHOW_VOLUME = [2, 0, 0];
  const BACK = { dark: [0.1, 0.11, 0.13, 1], light: [0.97, 0.97, 0.96, 1] };

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const embedded = (id) => document.getElementById(id)?.textContent.trim() ?? "";
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const attributes = (made, values) => {
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    return made;
  };

  async function library() {
    const packed = new Blob([bytes(embedded("niivue"))]).stream();
    const source = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(element("script", { textContent: source }));
    return window.niivue;
  }

  const dark = () =>
    document.documentElement.dataset.theme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

  async function show(section, niivue) {
    const data = JSON.parse(section.querySelector("script.viewer-data").textContent);
    const canvas = section.querySelector("canvas");
    const status = section.querySelector(".viewer-status");
    section.dataset.ready = "true"; // shown from now on: a hidden canvas has no size
    const nv = new niivue.Niivue({
      backColor: dark() ? BACK.dark : BACK.light,
      show3Dcrosshair: false,
      isOrientCube: true,
      isRadiologicalConvention: true, // the patient's right is on the left, as in 3D from the front
      isCornerOrientationText: false,
      showAllOrientationMarkers: true,
      multiplanarLayout: 2, // two by two
      multiplanarShowRender: 1,
      multiplanarForceRender: true,
      multiplanarPadPixels: 8, // whose letter is it, this tile's or its neighbor's?
      meshThicknessOn2D: IN_SLICE_MM,
      crosshairColor: [0.95, 0.75, 0.1, 0.8],
      crosshairWidth: 0.5,
      fontSizeScaling: 0.6,
      isNearestInterpolation: true,
      isRuler: true, // ten centimeters
      rulerColor: [0.95, 0.75, 0.1, 0.9],
      rulerWidth: 2,
      dragMode: 3,
      dragModePrimary: 8,
      loadingText: "",
    });
    await nv.attachToCanvas(canvas);
    for (const volume of data.volumes) {
      const image = await niivue.NVImage.loadFromBase64({
        base64: volume.data,
        name: `${volume.name}.nii.gz`,
        colormap: volume.colormap ?? "gray",
        opacity: volume.visible ? volume.opacity : 0,
      });
      if (volume.labels) image.setColormapLabel(volume.labels);
      nv.addVolume(image);
    }
    for (const part of data.parts) {
      const content = bytes(part.data).buffer;
      const color = new Uint8Array([...part.color, 255]);
      const mesh = await niivue.NVMesh.readMesh(
        content, `${part.name}.mz3`, nv.gl, part.opacity, color, part.visible);
      nv.addMesh(mesh);
      nv.setMeshShader(mesh.id, "Matte");
    }
    // Surfaces only in the 3D tile: the volume's own rendering covers them, and shades single voxels
    // black. A clip plane that leaves nothing hides it, and no slice or surface.
    nv.setClipPlane(HIDE_VOLUME);
    nv.setSliceType(nv.sliceTypeMultiplanar);
    nv.setRenderAzimuthElevation(...data.side);
    nv.scene.crosshairPos = nv.mm2frac(data.focus);
    const controls = section.querySelector(".viewer-controls");
    controls.append(
      views(nv, data), sides(nv), parts(nv, data), tools(nv, canvas, data, status));
    keys(nv, canvas, status);
    nv.onLocationChange = (where) => {
      const [x, y, z] = where.mm;
      const side = (value, plus, minus) =>
        `${Math.abs(value).toFixed(1)} mm ${value < 0 ? minus : plus}`;
      status.textContent =
        `Position from the origin: ${side(x, "right", "left")}, ` +
        `${side(y, "to the front", "to the back")}, ${side(z, "up", "down")}`;
    };
    const theme = () => {
      nv.opts.backColor = dark() ? BACK.dark : BACK.light;
      nv.drawScene();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
    document.addEventListener("themechange", theme);
    nv.updateGLVolume();
    nv.createOnLocationChange();
    section.viewer = nv;
    section.dataset.drawn = "true";
  }

  function group(label, ...children) {
    return element("fieldset", {}, element("legend", { textContent: label }), ...children);
  }

  function choice(entries, chosen, act) {
    const buttons = entries.map(([label, ...values]) => {
      const made = element("button", { type: "button", textContent: label });
      made.addEventListener("click", () => {
        for (const each of buttons) each.setAttribute("aria-pressed", String(each === made));
        act(...values);
      });
      return attributes(made, { "aria-pressed": String(label === chosen) });
    });
    return buttons;
  }

  function views(nv) {
    return group("View", ...choice(VIEWS, "All", (kind) => nv.setSliceType(nv[kind])));
  }

  function sides(nv) {
    const buttons = SIDES.map(([label, azimuth, elevation]) => {
      const made = element("button", { type: "button", textContent: label });
      made.addEventListener("click", () => nv.setRenderAzimuthElevation(azimuth, elevation));
      return made;
    });
    return group("Seen from", ...buttons);
  }

  function slider(label, value, act) {
    const made = attributes(
      element("input", { type: "range", min: 0, max: 1, step: 0.05, value }),
      { "aria-label": `Opacity of ${label}` });
    made.addEventListener("input", () => act(Number(made.value)));
    return made;
  }

  function parts(nv, data) {
    const boxes = new Map();
    const turn = (part, on) => {
      boxes.get(part.name).checked = on;
      nv.meshes[data.parts.indexOf(part)].visible = on;
    };
    const rows = data.parts.map((part, number) => {
      const box = element("input", { type: "checkbox", checked: part.visible });
      boxes.set(part.name, box);
      box.addEventListener("change", () => {
        turn(part, box.checked);
        // Surfaces in the same place would show through each other in patches.
        for (const other of data.parts) {
          const same = part.insteadOf.includes(other.name) || other.insteadOf.includes(part.name);
          if (box.checked && same) turn(other, false);
        }
        nv.updateGLVolume();
      });
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = `rgb(${part.color})`;
      const opacity = slider(part.label, part.opacity, (value) => {
        nv.meshes[number].opacity = value;
        nv.drawScene();
      });
      part.seeThrough = (on) => {
        opacity.value = on ? Math.min(SEE_THROUGH, nv.meshes[number].opacity) : part.opacity;
        nv.meshes[number].opacity = Number(opacity.value);
      };
      return element("div", { className: "part" },
        element("label", {}, box, swatch, part.label), opacity);
    });
    data.volumes.forEach((volume, number) => {
      const box = element("input", { type: "checkbox", checked: volume.visible });
      let opacity = volume.opacity;
      const show = () => nv.setOpacity(number, box.checked ? opacity : 0);
      box.addEventListener("change", show);
      rows.push(element("div", { className: "part" },
        element("label", {}, box, volume.label),
        slider(volume.label, opacity, (value) => {
          opacity = value;
          show();
        })));
    });
    return group("Parts and their opacity", ...rows);
  }

  function tools(nv, canvas, data, status) {
    const measure = attributes(
      element("button", { type: "button", textContent: "Measure" }), { "aria-pressed": "false" });
    measure.addEventListener("click", () => {
      const on = measure.getAttribute("aria-pressed") !== "true";
      measure.setAttribute("aria-pressed", String(on));
      nv.opts.dragModePrimary = on ? 2 : 8;
      status.textContent = on ? "Drag across a slice to measure a distance in mm." : "";
    });
    const slices = attributes(
      element("button", { type: "button", textContent: "Slices in 3D" }),
      { "aria-pressed": "false" });
    slices.addEventListener("click", async () => {
      const on = slices.getAttribute("aria-pressed") !== "true";
      slices.setAttribute("aria-pressed", String(on));
      // Opaque surfaces hide the planes.
      for (const part of data.parts) part.seeThrough(on);
      await nv.setVolumeRenderIllumination(on ? -1 : 0);
      nv.setClipPlane(on ? SHOW_VOLUME : HIDE_VOLUME);
    });
    const snapshot = element("button", { type: "button", textContent: "Save as PNG" });
    snapshot.addEventListener("click", () => {
      nv.drawScene();
      canvas.toBlob((blob) => {
        const link = element("a", { href: URL.createObjectURL(blob), download: `${data.name}.png` });
        link.click();
        URL.revokeObjectURL(link.href);
      });
    });
    return group("Tools", measure, slices, snapshot);
  }

  function keys(nv, canvas, status) {
    const turn = (azimuth, elevation) => nv.setRenderAzimuthElevation(
      nv.scene.renderAzimuth + azimuth,
      Math.max(-90, Math.min(90, nv.scene.renderElevation + elevation)));
    const actions = {
      ArrowLeft: () => turn(-TURN, 0),
      ArrowRight: () => turn(TURN, 0),
      ArrowUp: () => turn(0, TURN),
      ArrowDown: () => turn(0, -TURN),
      PageUp: () => nv.moveCrosshairInVox(0, 0, 1),
      PageDown: () => nv.moveCrosshairInVox(0, 0, -1),
      "+": () => zoom(nv, 1.1),
      "-": () => zoom(nv, 1 / 1.1),
    };
    canvas.addEventListener("keydown", (event) => {
      const act = actions[event.key];
      if (!act) return;
      event.preventDefault();
      event.stopImmediatePropagation(); // NiiVue has keys of its own
      act();
      status.textContent = `Turned to ${Math.round(nv.scene.renderAzimuth)} degrees around, ` +
        `${Math.round(nv.scene.renderElevation)} up`;
    }, true);
  }

  function zoom(nv, factor) {
    nv.scene.volScaleMultiplier = Math.max(0.3, Math.min(5, nv.scene.volScaleMultiplier * factor));
    nv.drawScene();
  }

  addEventListener("DOMContentLoaded", async () => {
    const sections = document.querySelectorAll("section.viewer");
    if (!sections.length || !embedded("niivue")) return;
    try {
      const niivue = await library();
      for (const section of sections) await show(section, niivue);
    } catch (error) {
      for (const section of sections) {
        delete section.dataset.ready;
        section.dataset.failed = String(error);
        section.querySelector(".viewer-status").textContent =
          "This browser cannot draw the interactive view (it needs WebGL 2); the image shows the same.";
      }
    }
  });
})();
