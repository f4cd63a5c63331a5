package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// toolKey is the annotation by which a schema says that a parameter asks for a tool:
//
//	"x-spare-tool": "ffmpeg:{}"                      {} is the parameter's value
//	"x-spare-tool": {"aac": "ffmpeg:aac", "none": ""}  by value; "" asks for nothing
const toolKey = "x-spare-tool"

const (
	maxDepth = 64      // ends the walk through a schema that refers to itself
	maxSteps = 200_000 // ends it where references multiply
)

// toolNeed is the compiled annotation.
type toolNeed struct {
	pattern string
	byValue map[string]string
}

// Validate does nothing: the annotation says nothing about which values are valid.
func (toolNeed) Validate(*jsonschema.ValidatorContext, any) {}

func toolVocabulary() *jsonschema.Vocabulary {
	return &jsonschema.Vocabulary{
		URL: "spare:///vocabulary/tools",
		Compile: func(_ *jsonschema.CompilerContext, obj map[string]any) (jsonschema.SchemaExt, error) {
			switch v := obj[toolKey].(type) {
			case nil:
				return nil, nil
			case string:
				if !validTool(strings.ReplaceAll(v, "{}", "x")) {
					return nil, fmt.Errorf("%s: %.60q is no tool", toolKey, v)
				}
				return toolNeed{pattern: v}, nil
			case map[string]any:
				need := toolNeed{byValue: map[string]string{}}
				for value, tool := range v {
					s, ok := tool.(string)
					if !ok || s != "" && !validTool(s) {
						return nil, fmt.Errorf("%s: %.60v is no tool", toolKey, tool)
					}
					need.byValue[value] = s
				}
				return need, nil
			}
			return nil, fmt.Errorf("%s must be a text or an object of texts", toolKey)
		},
	}
}

// of is the tool that one value asks for, "" for none.
func (n toolNeed) of(value any) string {
	word := ""
	switch v := value.(type) {
	case string:
		word = v
	case json.Number:
		word = v.String()
	case bool:
		word = fmt.Sprint(v)
	}
	if n.byValue != nil {
		return n.byValue[word]
	}
	if !strings.Contains(n.pattern, "{}") {
		if value == nil || value == false {
			return ""
		}
		return n.pattern
	}
	// An empty value leaves the choice to the App, as if it were not given.
	if tool := strings.ReplaceAll(n.pattern, "{}", word); word != "" && validTool(tool) {
		return tool
	}
	return ""
}

// tools lists what valid parameters ask for, by the annotations of their schema.
func (r *ruleset) tools(value any) []string {
	w := &toolWalk{found: map[string]struct{}{}}
	w.visit(r.root, value, 0)
	list := make([]string, 0, len(w.found))
	for tool := range w.found {
		list = append(list, tool)
	}
	slices.Sort(list)
	return list
}

type toolWalk struct {
	found map[string]struct{}
	steps int
}

func (w *toolWalk) visit(s *jsonschema.Schema, value any, depth int) {
	if s == nil || depth > maxDepth || w.steps > maxSteps {
		return
	}
	depth++
	w.steps++
	for _, ext := range s.Extensions {
		if need, ok := ext.(toolNeed); ok {
			if tool := need.of(value); tool != "" {
				w.found[tool] = struct{}{}
			}
		}
	}
	w.visit(s.Ref, value, depth)
	if s.DynamicRef != nil {
		w.visit(s.DynamicRef.Ref, value, depth)
	}
	for _, all := range s.AllOf {
		w.visit(all, value, depth)
	}
	for _, some := range slices.Concat(s.AnyOf, s.OneOf) {
		w.visitIf(some, value, depth)
	}
	if s.If != nil {
		if s.If.Validate(value) == nil {
			w.visit(s.If, value, depth)
			w.visit(s.Then, value, depth)
		} else {
			w.visit(s.Else, value, depth)
		}
	}
	switch v := value.(type) {
	case map[string]any:
		w.fields(s, v, depth)
	case []any:
		w.items(s, v, depth)
	}
}

// visitIf goes into a form only where the value has that form.
func (w *toolWalk) visitIf(s *jsonschema.Schema, value any, depth int) {
	if s.Validate(value) == nil {
		w.visit(s, value, depth)
	}
}

// fields visits an object's fields. One that is not given counts with its default: that
// is what the App will use.
func (w *toolWalk) fields(s *jsonschema.Schema, v map[string]any, depth int) {
	for name, sub := range s.Properties {
		if value, given := v[name]; given {
			w.visit(sub, value, depth)
		} else if d := defaultOf(sub); d != nil {
			w.visit(sub, *d, depth)
		}
	}
	for name, value := range v {
		if _, named := s.Properties[name]; named {
			continue
		}
		matched := false
		for pattern, sub := range s.PatternProperties {
			if pattern.MatchString(name) {
				matched = true
				w.visit(sub, value, depth)
			}
		}
		if other, ok := s.AdditionalProperties.(*jsonschema.Schema); ok && !matched {
			w.visit(other, value, depth)
		}
	}
	for name, sub := range s.DependentSchemas {
		if _, given := v[name]; given {
			w.visit(sub, v, depth)
		}
	}
}

// defaultOf is a field's default, also where the field only refers to its definition.
func defaultOf(s *jsonschema.Schema) *any {
	for range maxDepth {
		if s == nil || s.Default != nil {
			break
		}
		s = s.Ref
	}
	if s == nil {
		return nil
	}
	return s.Default
}

func (w *toolWalk) items(s *jsonschema.Schema, v []any, depth int) {
	first := s.PrefixItems
	rest := s.Items2020
	switch older := s.Items.(type) {
	case []*jsonschema.Schema:
		first = older
		rest, _ = s.AdditionalItems.(*jsonschema.Schema)
	case *jsonschema.Schema:
		rest = older
	}
	for i, value := range v {
		if i < len(first) {
			w.visit(first[i], value, depth)
		} else {
			w.visit(rest, value, depth)
		}
	}
}
