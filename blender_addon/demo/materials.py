# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural materials that Cycles renders without noise in a handful of samples.

Only one lamp is traced. Everything else that light does in a room (sky, bounces) is a smooth emission that depends on
the surface's direction, mixed into each material: no samples are spent on it and it never flickers.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy

from ..compat import with_nodes

Color = tuple[float, float, float]
PATTERNS = ("plain", "stripes", "rings", "checker", "dots", "marble", "speckle", "wood", "planks", "tiles", "weave")


@dataclass(frozen=True)
class Surface:
    """Two linear RGB colours, one of PATTERNS, its repeats per metre, and the share of a highlight (gloss, 0..1)."""

    color: Color
    second: Color
    pattern: str = "plain"
    scale: float = 60.0
    gloss: float = 0.08
    roughness: float = 0.35
    ambient: float = 0.42
    texture_space: str = "Object"


def make_material(name: str, surface: Surface) -> bpy.types.Material:
    if surface.pattern not in PATTERNS:
        raise ValueError(f"pattern {surface.pattern!r} is unknown; use one of {', '.join(PATTERNS)}")
    material = bpy.data.materials.new(name)
    material.diffuse_color = (*surface.color, 1.0)
    tree = with_nodes(material)
    nodes, links = tree.nodes, tree.links
    nodes.clear()

    color = nodes.new("ShaderNodeMix")
    color.data_type = "RGBA"
    # A Mix node carries sockets of every type under the same names; the colour ones are the third set.
    color.inputs[6].default_value = (*surface.color, 1.0)
    color.inputs[7].default_value = (*surface.second, 1.0)
    color.inputs[0].default_value = 0.0
    factor = _pattern(material, surface)
    if factor is not None:
        links.new(factor, color.inputs[0])
    shade = color.outputs[2]

    diffuse = nodes.new("ShaderNodeBsdfDiffuse")
    gloss = (
        nodes.new("ShaderNodeBsdfAnisotropic")
        if hasattr(bpy.types, "ShaderNodeBsdfAnisotropic")
        else nodes.new("ShaderNodeBsdfGlossy")
    )
    gloss.inputs["Roughness"].default_value = surface.roughness
    mix = nodes.new("ShaderNodeMixShader")
    mix.inputs[0].default_value = surface.gloss
    links.new(shade, diffuse.inputs["Color"])
    links.new(diffuse.outputs[0], mix.inputs[1])
    links.new(gloss.outputs[0], mix.inputs[2])

    emission = nodes.new("ShaderNodeEmission")
    links.new(shade, emission.inputs["Color"])
    links.new(_ambient(material, surface.ambient), emission.inputs["Strength"])
    add = nodes.new("ShaderNodeAddShader")
    links.new(mix.outputs[0], add.inputs[0])
    links.new(emission.outputs[0], add.inputs[1])
    output = nodes.new("ShaderNodeOutputMaterial")
    links.new(add.outputs[0], output.inputs["Surface"])
    # The emission stands in for ambient light; it must not become a lamp that Cycles samples.
    if hasattr(material, "cycles") and hasattr(material.cycles, "emission_sampling"):
        material.cycles.emission_sampling = "NONE"
    return material


def _math(material: bpy.types.Material, operation: str, *values: object, clamp: bool = False) -> bpy.types.NodeSocket:
    node = material.node_tree.nodes.new("ShaderNodeMath")
    node.operation, node.use_clamp = operation, clamp
    for socket, value in zip(node.inputs, values, strict=False):
        if isinstance(value, bpy.types.NodeSocket):
            material.node_tree.links.new(value, socket)
        else:
            socket.default_value = float(value)  # type: ignore[arg-type]
    return node.outputs[0]


def _ambient(material: bpy.types.Material, strength: float) -> bpy.types.NodeSocket:
    """Light from above and a little from the viewer's side: strength · (0.62 + 0.38 · normal.z)."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    geometry, split = nodes.new("ShaderNodeNewGeometry"), nodes.new("ShaderNodeSeparateXYZ")
    links.new(geometry.outputs["Normal"], split.inputs[0])
    facing = nodes.new("ShaderNodeVectorMath")
    facing.operation = "DOT_PRODUCT"
    links.new(geometry.outputs["Normal"], facing.inputs[0])
    links.new(geometry.outputs["Incoming"], facing.inputs[1])
    up = _math(material, "MULTIPLY_ADD", split.outputs[2], 0.34, 0.36)
    front = _math(material, "MULTIPLY", facing.outputs["Value"], 0.30)
    return _math(material, "MULTIPLY", _math(material, "ADD", up, front), strength)


def _pattern(material: bpy.types.Material, surface: Surface) -> bpy.types.NodeSocket | None:
    nodes, links = material.node_tree.nodes, material.node_tree.links
    if surface.pattern == "plain":
        return None
    coordinate = nodes.new("ShaderNodeTexCoord").outputs[surface.texture_space]
    scale = surface.scale

    def texture(kind: str, output: str, **settings: object) -> bpy.types.NodeSocket:
        node = nodes.new(kind)
        links.new(coordinate, node.inputs["Vector"])
        for key, value in settings.items():
            if key in node.inputs:
                node.inputs[key].default_value = value
            else:
                setattr(node, key, value)
        return node.outputs[output]

    def split() -> bpy.types.NodeSocket:
        node = nodes.new("ShaderNodeSeparateXYZ")
        links.new(coordinate, node.inputs[0])
        return node

    match surface.pattern:
        case "rings":
            height = split().outputs[2]
            return _math(
                material,
                "GREATER_THAN",
                _math(material, "FRACT", _math(material, "MULTIPLY", height, scale * 0.6)),
                0.5,
            )
        case "stripes":
            parts = split()
            angle = _math(material, "ARCTAN2", parts.outputs[1], parts.outputs[0])
            turns = _math(material, "MULTIPLY", angle, max(round(scale / 8), 4) / 6.2831853)
            return _math(material, "GREATER_THAN", _math(material, "FRACT", turns), 0.5)
        case "checker":
            return texture("ShaderNodeTexChecker", "Fac", Scale=scale, Color1=(0, 0, 0, 1), Color2=(1, 1, 1, 1))
        case "dots":
            return _math(
                material, "LESS_THAN", texture("ShaderNodeTexVoronoi", "Distance", Scale=scale, Randomness=0.6), 0.36
            )
        case "marble":
            noise = texture("ShaderNodeTexNoise", "Fac", Scale=scale * 0.5, Detail=3.0, Distortion=1.5)
            return _math(material, "MULTIPLY_ADD", noise, 4.0, -1.5, clamp=True)
        case "speckle":
            return _math(
                material,
                "MULTIPLY_ADD",
                texture("ShaderNodeTexNoise", "Fac", Scale=scale, Detail=2.0),
                2.2,
                -0.6,
                clamp=True,
            )
        case "wood" | "planks":
            mapping = nodes.new("ShaderNodeMapping")
            mapping.inputs["Scale"].default_value = (1.0, 0.12, 1.0)
            links.new(coordinate, mapping.inputs["Vector"])
            if surface.pattern == "planks":
                brick = nodes.new("ShaderNodeTexBrick")
                turn = nodes.new("ShaderNodeMapping")
                turn.inputs["Rotation"].default_value = (0, 0, 1.5707963)
                links.new(coordinate, turn.inputs["Vector"])
                links.new(turn.outputs[0], brick.inputs["Vector"])
                for key, value in {
                    "Scale": scale * 0.1,
                    "Mortar Size": 0.012,
                    "Row Height": 0.35,
                    "Brick Width": 1.6,
                }.items():
                    brick.inputs[key].default_value = value
                brick.inputs["Color1"].default_value, brick.inputs["Color2"].default_value = (
                    (0.15, 0.15, 0.15, 1),
                    (0.55, 0.55, 0.55, 1),
                )
                brick.inputs["Mortar"].default_value = (1, 1, 1, 1)
            coordinate = mapping.outputs[0]
            grain = texture("ShaderNodeTexNoise", "Fac", Scale=scale, Detail=4.0, Distortion=0.8)
            grain = _math(material, "MULTIPLY_ADD", grain, 3.0, -1.0, clamp=True)
            if surface.pattern == "wood":
                return grain
            return _math(
                material,
                "MULTIPLY_ADD",
                grain,
                0.45,
                _math(material, "MULTIPLY", brick.outputs["Color"], 0.7),
                clamp=True,
            )
        case "tiles":
            return texture(
                "ShaderNodeTexBrick",
                "Fac",
                Scale=scale * 0.2,
                offset=0.0,
                **{"Mortar Size": 0.02, "Row Height": 0.5, "Brick Width": 0.5},
            )
        case _:  # weave
            a = texture("ShaderNodeTexWave", "Fac", Scale=scale * 0.6, bands_direction="X")
            b = texture("ShaderNodeTexWave", "Fac", Scale=scale * 0.6, bands_direction="Y")
            return _math(material, "MULTIPLY", a, b)
