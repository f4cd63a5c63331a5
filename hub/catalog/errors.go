package catalog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spare-compute/spare/hub/store"
)

// ErrForbidden is matched by errors that say something belongs to somebody else.
var ErrForbidden = errors.New("it belongs to somebody else")

// A FieldError names one value that cannot be taken.
type FieldError struct {
	Path    string        // "params.app.outputs[0].video.codec"
	Message string        // what is wrong with it and what is allowed, as a sentence
	Allowed []string      // what may stand there, where that is a list
	Also    []*FieldError // the other values that are wrong

	tells bool // one value alone is allowed: the field tells one form of an object from others
}

func (e *FieldError) Error() string {
	var b strings.Builder
	e.write(&b)
	for _, other := range e.Also {
		b.WriteString("; ")
		other.write(&b)
	}
	return b.String()
}

func (e *FieldError) write(b *strings.Builder) {
	if e.Path != "" {
		b.WriteString(e.Path)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
}

// fieldError makes a FieldError whose sentence lists what is allowed.
func fieldError(path, message string, allowed ...string) *FieldError {
	if len(allowed) > 0 {
		message += "; use " + oneOf(allowed)
	}
	return &FieldError{Path: path, Message: message, Allowed: allowed}
}

// oneOf lists choices in a sentence.
func oneOf(list []string) string {
	const most = 24
	rest := ""
	if len(list) > most {
		rest = fmt.Sprintf(" or %d others", len(list)-most)
		list = list[:most]
	}
	if len(list) == 1 && rest == "" {
		return list[0]
	}
	return "one of " + strings.Join(list, ", ") + rest
}

// An UnknownError says that nothing has the name that was asked for.
type UnknownError struct {
	What    string // "template", "App", "preset", …
	Name    string
	Nearest string // the known name closest to it, "" if none is close
	Hint    string // what to do if there is none
}

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("there is no %s %.120q", e.What, e.Name)
	switch {
	case e.Nearest != "":
		s += fmt.Sprintf("; did you mean %q?", e.Nearest)
	case e.Hint != "":
		s += "; " + e.Hint
	}
	return s
}

// Is makes an UnknownError match store.ErrNotFound.
func (e *UnknownError) Is(target error) bool { return target == store.ErrNotFound }

// Refused says why something that was understood is not taken, as a sentence for who
// asked for it.
type Refused struct {
	Sentence string
	Err      error // what it rests on, if anything
}

func (e *Refused) Error() string { return e.Sentence }

// Unwrap gives the cause.
func (e *Refused) Unwrap() error { return e.Err }

func refuse(format string, args ...any) error {
	return &Refused{Sentence: fmt.Sprintf(format, args...)}
}

// forbid refuses to touch what belongs to another owner.
func forbid(what, name, owner string) error {
	return &Refused{
		Sentence: fmt.Sprintf("%s %q belongs to %s; choose another name", what, name, owner),
		Err:      ErrForbidden,
	}
}
