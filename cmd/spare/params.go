package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// parseParams builds one object from "path=value" assignments. A path is dotted, and a
// number in it is a place in a list: outputs.0.video.codec=libx265, outputs[0].name=hd.
// A value that is JSON is taken as such, anything else as text.
func parseParams(assignments []string) (map[string]any, error) {
	var root any = map[string]any{}
	for _, a := range assignments {
		path, value, ok := strings.Cut(a, "=")
		if !ok || strings.TrimSpace(path) == "" {
			return nil, fmt.Errorf("parameter %q: want key=value", a)
		}
		keys := splitPath(strings.TrimSpace(path))
		if slices.Contains(keys, "") {
			return nil, fmt.Errorf("parameter %q: the path has an empty part", a)
		}
		var err error
		if root, err = assign(root, keys, parseValue(value)); err != nil {
			return nil, fmt.Errorf("parameter %q: %w", a, err)
		}
	}
	object, ok := root.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("parameters are an object: begin a path with a name, not a number")
	}
	return object, nil
}

// splitPath turns a.0.b and a[0].b into their parts.
func splitPath(path string) []string {
	path = strings.ReplaceAll(path, "]", "")
	return strings.Split(strings.ReplaceAll(path, "[", "."), ".")
}

func parseValue(text string) any {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber() // a number is sent as it was typed
	var v any
	if dec.Decode(&v) != nil || dec.More() {
		return text
	}
	return v
}

// assign sets the value at a path below node, making what is not there.
func assign(node any, path []string, value any) (any, error) {
	if len(path) == 0 {
		return value, nil
	}
	index, err := strconv.Atoi(path[0])
	if err != nil || index < 0 {
		return assignKey(node, path, value)
	}
	if object, ok := node.(map[string]any); ok && len(object) > 0 {
		return assignKey(node, path, value) // a key that looks like a number
	}
	list, ok := node.([]any)
	if !ok && !isEmpty(node) {
		return nil, fmt.Errorf("%q is a place in a list, and there is none", path[0])
	}
	if index > len(list) {
		return nil, fmt.Errorf("place %d of a list of %d: fill the earlier places first", index, len(list))
	}
	if index == len(list) {
		list = append(list, nil)
	}
	list[index], err = assign(list[index], path[1:], value)
	return list, err
}

func isEmpty(node any) bool {
	object, ok := node.(map[string]any)
	return node == nil || (ok && len(object) == 0)
}

func assignKey(node any, path []string, value any) (any, error) {
	object, ok := node.(map[string]any)
	if !ok {
		if node != nil {
			return nil, fmt.Errorf("%q is a name in an object, and something else is there", path[0])
		}
		object = map[string]any{}
	}
	var err error
	object[path[0]], err = assign(object[path[0]], path[1:], value)
	return object, err
}
