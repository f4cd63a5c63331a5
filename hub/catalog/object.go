package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// An object is a JSON object as people and both eras' clients write it: keys in camelCase,
// snake_case or capitalised, null for what is not set, numbers also as text. The first
// value of a wrong kind is kept in err, so that a reader asks for all it knows and looks
// at err once.
type object struct {
	path   string // where it stands, for errors: "params.app"; "" at the top
	fields map[string]field
	err    error
}

type field struct {
	key   string // as written
	value json.RawMessage
	read  bool
}

var separators = strings.NewReplacer("_", "", "-", "")

// canonical is what a key's spellings have in common.
func canonical(key string) string { return strings.ToLower(separators.Replace(key)) }

// isNull reports whether raw holds no value.
func isNull(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// readObject reads raw as an object; nothing and null are an empty one.
func readObject(path string, raw []byte) *object {
	o := &object{path: path, fields: map[string]field{}}
	if isNull(raw) {
		return o
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		o.err = &FieldError{Path: path, Message: notThis(raw, err, "an object")}
		return o
	}
	for key, value := range m {
		c := canonical(key)
		if other, twice := o.fields[c]; twice {
			o.err = &FieldError{Path: o.at(min(key, other.key)), Message: fmt.Sprintf("given twice, as %q and %q; keep one", min(key, other.key), max(key, other.key))}
			return o
		}
		o.fields[c] = field{key: key, value: value}
	}
	return o
}

// notThis says what is wrong with a value that could not be read as what was wanted.
func notThis(raw []byte, err error, want string) string {
	if !json.Valid(raw) {
		if syntax, ok := err.(*json.SyntaxError); ok {
			return fmt.Sprintf("it is no valid JSON: %v at byte %d", syntax, syntax.Offset)
		}
		return fmt.Sprintf("it is no valid JSON: %v", err)
	}
	return fmt.Sprintf("%s is not %s", shorten(raw), want)
}

// shorten shows a value in an error.
func shorten(raw []byte) string {
	const most = 60
	s := []rune(strings.ToValidUTF8(string(bytes.TrimSpace(raw)), "?"))
	if len(s) > most {
		return string(s[:most]) + "…"
	}
	return string(s)
}

func (o *object) at(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

// take finds the first of the given keys that has a value, and marks them all as known.
func (o *object) take(keys ...string) (field, bool) {
	var found field
	ok := false
	for _, key := range keys {
		c := canonical(key)
		f, there := o.fields[c]
		if !there {
			continue
		}
		f.read = true
		o.fields[c] = f
		if !ok && !isNull(f.value) {
			found, ok = f, true
		}
	}
	return found, ok
}

func (o *object) fail(f field, want string) {
	if o.err == nil {
		o.err = &FieldError{Path: o.at(f.key), Message: notThis(f.value, nil, want)}
	}
}

func (o *object) text(keys ...string) string {
	f, ok := o.take(keys...)
	if !ok {
		return ""
	}
	var s string
	if json.Unmarshal(f.value, &s) != nil {
		o.fail(f, "a text")
	}
	return s
}

// label reads a text, or a number as it is written: versions are given either way.
func (o *object) label(keys ...string) string {
	f, ok := o.take(keys...)
	if !ok {
		return ""
	}
	var v any
	if err := decode(f.value, &v); err == nil {
		switch v := v.(type) {
		case string:
			return v
		case json.Number:
			return v.String()
		}
	}
	o.fail(f, "a text")
	return ""
}

func (o *object) flag(keys ...string) bool {
	f, ok := o.take(keys...)
	if !ok {
		return false
	}
	switch strings.ToLower(string(bytes.Trim(f.value, `" `))) {
	case "true":
		return true
	case "false", "":
	default:
		o.fail(f, "true or false")
	}
	return false
}

// number reads a number of at least 0, also one written as text; "" counts as not given.
func (o *object) number(keys ...string) float64 {
	f, ok := o.take(keys...)
	if !ok {
		return 0
	}
	s := string(bytes.TrimSpace(bytes.Trim(f.value, `"`)))
	if s == "" {
		return 0
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		o.fail(f, "a number of at least 0")
		return 0
	}
	return n
}

// whole reads a whole number between 0 and most.
func (o *object) whole(most int, keys ...string) int {
	n := o.number(keys...)
	if n == math.Trunc(n) && n <= float64(most) {
		return int(n)
	}
	f, _ := o.take(keys...)
	o.fail(f, fmt.Sprintf("a whole number from 0 to %d", most))
	return 0
}

// texts reads a list of texts; one text alone is a list of it.
func (o *object) texts(keys ...string) []string {
	f, ok := o.take(keys...)
	if !ok {
		return nil
	}
	var list []string
	if json.Unmarshal(f.value, &list) == nil {
		return list
	}
	var one string
	if json.Unmarshal(f.value, &one) != nil {
		o.fail(f, "a list of texts")
		return nil
	}
	if one == "" {
		return nil
	}
	return []string{one}
}

// raw reads a value as it stands, without its white space.
func (o *object) raw(keys ...string) json.RawMessage {
	f, ok := o.take(keys...)
	if !ok {
		return nil
	}
	return compact(f.value)
}

// object reads an object below this one. It is empty if there is none, never nil.
func (o *object) object(keys ...string) *object {
	f, ok := o.take(keys...)
	if !ok {
		return readObject(o.at(keys[0]), nil)
	}
	return readObject(o.at(f.key), f.value)
}

// settings reads an object that is kept as it stands.
func (o *object) settings(keys ...string) json.RawMessage {
	f, ok := o.take(keys...)
	if !ok {
		return nil
	}
	if sub := readObject(o.at(f.key), f.value); sub.err != nil {
		o.adopt(sub)
		return nil
	}
	return compact(f.value)
}

// adopt takes over the error of an object below.
func (o *object) adopt(sub *object) {
	if o.err == nil {
		o.err = sub.err
	}
}

// unknown lists, sorted, the keys with a value that nobody asked for.
func (o *object) unknown() []string {
	var keys []string
	for _, f := range o.fields {
		if !f.read && !isNull(f.value) {
			keys = append(keys, f.key)
		}
	}
	slices.Sort(keys)
	return keys
}

func compact(raw []byte) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return nil // it came out of a decoder and is valid
	}
	return b.Bytes()
}

// decode is json.Unmarshal that keeps numbers as they are written.
func decode(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(v)
}

// encode is json.Marshal that leaves <, > and & alone: parameters are read by people.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// merge lays over over base: objects key by key, everything else as a whole.
func merge(base, over any) any {
	b, ok := base.(map[string]any)
	o, too := over.(map[string]any)
	if !ok || !too {
		return over
	}
	merged := make(map[string]any, len(b)+len(o))
	for k, v := range b {
		merged[k] = v
	}
	for k, v := range o {
		if below, both := merged[k]; both {
			v = merge(below, v)
		}
		merged[k] = v
	}
	return merged
}

// layer merges settings from the weakest to the strongest. Each is an object or nothing.
func layer(path string, all ...json.RawMessage) (map[string]any, error) {
	merged := map[string]any{}
	for _, raw := range all {
		if isNull(raw) {
			continue
		}
		var v map[string]any
		if err := decode(raw, &v); err != nil {
			return nil, &FieldError{Path: path, Message: notThis(raw, err, "an object")}
		}
		merged = merge(merged, v).(map[string]any)
	}
	return merged, nil
}
