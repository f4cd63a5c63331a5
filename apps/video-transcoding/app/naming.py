"""File names from a template in the style of Go's text/template.

Understood: {{.job_name}}, {{.name}}, {{.output_type}}, {{.output_params.A.B}} (each part
in CapitalisedCamel of the parameter's snake_case name) and
{{if .x}}...{{else if .y}}...{{else}}...{{end}}, with {{- and -}} to trim white space.
"""

import re

DEFAULT = "{{.job_name}}{{if .name}}_{{.name}}{{end}}"
LONGEST = 120  # characters; the merge adds folders and an ending


class BadTemplate(Exception):
    pass


def file_name(template, job_name, output):
    """The name of an output's file, without its ending."""
    values = {
        "job_name": job_name,
        "name": output.get("name") or "",
        "output_type": (output.get("output_type") or "mp4").upper(),
        "output_params": output.get("output_params") or {},
    }
    name = render(template or DEFAULT, values)
    name = re.sub(r"\s", "_", name.strip())
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", name)  # no system's file names hold these
    name = name.strip("._")[:LONGEST].strip("._")
    return name or "output"


def render(template, values):
    tokens = re.split(r"(\{\{.*?\}\})", template, flags=re.S)
    for i, token in enumerate(tokens):
        if token.startswith("{{-"):
            tokens[i] = "{{" + token[3:]
            tokens[i - 1] = tokens[i - 1].rstrip()
        if tokens[i].endswith("-}}") and tokens[i].startswith("{{"):
            tokens[i] = tokens[i][:-3] + "}}"
            tokens[i + 1] = tokens[i + 1].lstrip()
    text, rest, closed_by = block(tokens, values, True)
    if closed_by:
        raise BadTemplate(f"{{{{{closed_by}}}}} without {{{{if}}}}")
    return text


def block(tokens, values, active):
    """Renders up to the action that closes the block, and says which one that was."""
    text = ""
    while tokens:
        token, tokens = tokens[0], tokens[1:]
        if not (token.startswith("{{") and token.endswith("}}")):
            if "{{" in token or "}}" in token:
                raise BadTemplate(f"{token[:40]!r} has an unmatched brace")
            text += token if active else ""
            continue
        action = token[2:-2].strip()
        words = action.split()
        if action == "end" or words[:1] == ["else"]:
            return text, tokens, action
        if words[:1] == ["if"]:
            branch, tokens = choose(words[1:], tokens, values, active)
            text += branch
        elif len(words) == 1 and action.startswith("."):
            text += str(lookup(action, values)) if active else ""
        else:
            raise BadTemplate(f"{token} is not understood; there are .job_name, .name, .output_type, .output_params.X.Y, if, else and end")
    return text, tokens, ""


def choose(condition, tokens, values, active):
    """Renders an if with its branches, up to its end."""
    if len(condition) != 1 or not condition[0].startswith("."):
        raise BadTemplate("if takes one value, such as {{if .name}}")
    true = active and bool(lookup(condition[0], values))
    text, tokens, closed_by = block(tokens, values, true)
    if closed_by == "end":
        return text, tokens
    words = closed_by.split()
    if not words:
        raise BadTemplate("an {{if}} has no {{end}}")
    if words[1:2] == ["if"]:
        other, tokens = choose(words[2:], tokens, values, active and not true)
        return text + other, tokens
    other, tokens, closed_by = block(tokens, values, active and not true)
    if closed_by != "end":
        raise BadTemplate("an {{if}} has no {{end}}")
    return text + other, tokens


def lookup(path, values):
    value = values
    for part in path[1:].split("."):
        key = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower()
        if not isinstance(value, dict):
            raise BadTemplate(f"there is no {path}")
        if key not in value:
            if path.startswith(".output_params."):
                return ""  # a parameter that is left to its default
            raise BadTemplate(f"there is no {path}; there are .job_name, .name, .output_type and .output_params.X.Y")
        value = value[key]
    if isinstance(value, (dict, list)):
        raise BadTemplate(f"{path} is no single value")
    return value
