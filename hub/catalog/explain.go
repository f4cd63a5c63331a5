package catalog

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

var english = message.NewPrinter(language.English)

// missing is the message of a value that is required and not there.
const missing = "required, but missing"

// explain turns the tree of what a validation found into sentences, one for each value
// that is wrong.
func explain(e *jsonschema.ValidationError, r *ruleset, path string) []*FieldError {
	switch k := e.ErrorKind.(type) {
	case *kind.AnyOf:
		return alternatives(e, r, path)
	case *kind.OneOf:
		if len(k.Subschemas) > 0 {
			return []*FieldError{{Path: place(path, e.InstanceLocation), Message: "it fits several of the forms that exclude each other; keep the fields of one"}}
		}
		return alternatives(e, r, path)
	case *kind.Contains, *kind.MinContains, *kind.MaxContains, *kind.Not, *kind.PropertyNames:
		return leaf(e, r, path) // what is below speaks of other things
	}
	if len(e.Causes) == 0 {
		return leaf(e, r, path)
	}
	var faults []*FieldError
	for _, cause := range e.Causes {
		faults = append(faults, explain(cause, r, path)...)
	}
	return unique(faults)
}

// unique drops what several rules say of the same value in the same words.
func unique(faults []*FieldError) []*FieldError {
	type said struct{ path, message string }
	seen := map[said]bool{}
	return slices.DeleteFunc(faults, func(f *FieldError) bool {
		key := said{f.Path, f.Message}
		again := seen[key]
		seen[key] = true
		return again
	})
}

// alternatives explains a value that fits none of several forms: by the values allowed
// for the field that tells the forms apart, or by the form it comes closest to.
func alternatives(e *jsonschema.ValidationError, r *ruleset, path string) []*FieldError {
	var closest []*FieldError
	choice := map[string][]string{} // by path: what the forms allow there
	told := map[string]int{}        // by path: how many forms tell by it
	for _, form := range e.Causes {
		faults := explain(form, r, path)
		tells := false
		for _, f := range faults {
			if f.tells {
				choice[f.Path] = append(choice[f.Path], f.Allowed...)
				told[f.Path]++
				tells = true
			}
		}
		if !tells && (closest == nil || len(faults) < len(closest)) {
			closest = faults
		}
	}
	if closest != nil {
		return closest
	}
	for _, p := range slices.Sorted(maps.Keys(choice)) {
		if told[p] == len(e.Causes) {
			allowed := slices.Compact(slices.Sorted(slices.Values(choice[p])))
			return []*FieldError{fieldError(p, "this value is not allowed", allowed...)}
		}
	}
	for _, form := range e.Causes {
		if faults := explain(form, r, path); closest == nil || len(faults) < len(closest) {
			closest = faults
		}
	}
	if closest != nil {
		return closest
	}
	return leaf(e, r, path)
}

// leaf says what is wrong with one value.
func leaf(e *jsonschema.ValidationError, r *ruleset, path string) []*FieldError {
	at := place(path, e.InstanceLocation)
	one := func(format string, args ...any) []*FieldError {
		return []*FieldError{{Path: at, Message: fmt.Sprintf(format, args...)}}
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		var faults []*FieldError
		for _, name := range k.Missing {
			faults = append(faults, &FieldError{Path: at + "." + name, Message: missing})
		}
		return faults
	case *kind.AdditionalProperties:
		var faults []*FieldError
		for _, name := range slices.Sorted(slices.Values(k.Properties)) {
			faults = append(faults, unknownField(at+"."+name, name, r.properties(e.SchemaURL)))
		}
		return faults
	case *kind.FalseSchema:
		return one("there is no such field here; leave it out")
	case *kind.Enum:
		f := fieldError(at, show(k.Got)+" is not allowed", shows(k.Want)...)
		f.tells = len(k.Want) == 1
		return []*FieldError{f}
	case *kind.Const:
		f := fieldError(at, show(k.Got)+" is not allowed", show(k.Want))
		f.tells = true
		return []*FieldError{f}
	case *kind.Type:
		return one("it is %s, but must be %s", article(k.Got), choices(k.Want))
	case *kind.Minimum:
		return one("%s is too small; %s", number(k.Got), r.bounds(e.SchemaURL))
	case *kind.Maximum:
		return one("%s is too large; %s", number(k.Got), r.bounds(e.SchemaURL))
	case *kind.ExclusiveMinimum:
		return one("%s is too small; %s", number(k.Got), r.bounds(e.SchemaURL))
	case *kind.ExclusiveMaximum:
		return one("%s is too large; %s", number(k.Got), r.bounds(e.SchemaURL))
	case *kind.MultipleOf:
		return one("%s is no multiple of %s", number(k.Got), number(k.Want))
	}
	return one("%s", length(e.ErrorKind))
}

// length says what is wrong with how long or what shape a value is.
func length(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.MinLength:
		return fmt.Sprintf("it has %d characters; at least %d are needed", k.Got, k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("it has %d characters; at most %d are allowed", k.Got, k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("it has %d entries; at least %d are needed", k.Got, k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("it has %d entries; at most %d are allowed", k.Got, k.Want)
	case *kind.MinProperties:
		return fmt.Sprintf("it has %d fields; at least %d are needed", k.Got, k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("it has %d fields; at most %d are allowed", k.Got, k.Want)
	case *kind.UniqueItems:
		return fmt.Sprintf("entries %d and %d are equal; each may be there once", k.Duplicates[0], k.Duplicates[1])
	case *kind.Pattern:
		return fmt.Sprintf("%s does not match the pattern %s", show(k.Got), k.Want)
	case *kind.Format:
		return fmt.Sprintf("%s is no valid %s", show(k.Got), k.Want)
	case *kind.DependentRequired:
		return fmt.Sprintf("%s needs %s beside it", k.Prop, strings.Join(k.Missing, " and "))
	case *kind.Dependency:
		return fmt.Sprintf("%s needs %s beside it", k.Prop, strings.Join(k.Missing, " and "))
	case *kind.PropertyNames:
		return fmt.Sprintf("%.80q may not be the name of a field here", k.Property)
	case *kind.Not:
		return "this value is not allowed"
	}
	return k.LocalizedString(english)
}

// place writes where a value is: "params.app.outputs[0].video".
func place(path string, tokens []string) string {
	var b strings.Builder
	b.WriteString(path)
	for _, t := range tokens {
		if _, err := strconv.ParseUint(t, 10, 32); err == nil {
			b.WriteString("[" + t + "]")
			continue
		}
		b.WriteString("." + t)
	}
	return b.String()
}

// at finds the rule that an error comes from.
func (r *ruleset) at(url string) *jsonschema.Schema {
	if r.compiler == nil {
		return nil
	}
	s, err := r.compiler.Compile(url)
	if err != nil {
		return nil
	}
	return s
}

// properties are the fields that a rule knows.
func (r *ruleset) properties(url string) []string {
	if s := r.at(url); s != nil {
		return slices.Sorted(maps.Keys(s.Properties))
	}
	return nil
}

// bounds says between what a number must be.
func (r *ruleset) bounds(url string) string {
	s := r.at(url)
	if s == nil {
		return "see the schema for what is allowed"
	}
	var parts []string
	add := func(words string, n *big.Rat) {
		if n != nil {
			parts = append(parts, words+number(n))
		}
	}
	if s.Minimum != nil && s.Maximum != nil {
		return "it must be from " + number(s.Minimum) + " to " + number(s.Maximum)
	}
	add("at least ", s.Minimum)
	add("above ", s.ExclusiveMinimum)
	add("at most ", s.Maximum)
	add("below ", s.ExclusiveMaximum)
	return "it must be " + strings.Join(parts, " and ")
}

func number(n *big.Rat) string {
	if n.IsInt() {
		return n.Num().String()
	}
	f, _ := n.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// show writes a value as JSON, shortened.
func show(v any) string {
	raw, err := encode(v)
	if err != nil {
		return "this value"
	}
	return shorten(json.RawMessage(raw))
}

func shows(list []any) []string {
	all := make([]string, len(list))
	for i, v := range list {
		all[i] = show(v)
	}
	return all
}

func article(typ string) string {
	switch typ {
	case "array":
		return "a list"
	case "object", "integer":
		return "an " + typ
	case "null":
		return "null"
	}
	return "a " + typ
}

func choices(types []string) string {
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = article(t)
	}
	return strings.Join(words, " or ")
}
