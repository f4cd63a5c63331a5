package publisher

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spare-compute/spare"
)

// A Trust is whose code may run, and what was seen of it: what a node keeps for each hub
// it joined. It is a plain value; Judge returns the next one.
type Trust struct {
	Publishers []Pin           `json:"publishers"`
	Seen       map[string]Seen `json:"seen"`             // by kind, name and version
	Owners     map[string]ID   `json:"owners,omitempty"` // of names, by kind and name: a key of the publisher who came first
}

// Seen is the newest revision of an App that ran.
type Seen struct {
	Revision uint64       `json:"revision"`
	Oldest   uint64       `json:"oldest"` // revisions below it are refused
	Digest   spare.Digest `json:"digest"` // of the manifest
}

// Add pins publishers that are not known yet.
func (t Trust) Add(keys ...ed25519.PublicKey) Trust {
	t.Publishers = slices.Clone(t.Publishers)
	for _, k := range keys {
		known := slices.ContainsFunc(t.Publishers, func(p Pin) bool { return p.Key.Equal(k) || p.retired(k) })
		if len(k) == ed25519.PublicKeySize && !known {
			t.Publishers = append(t.Publishers, Pin{Key: k})
		}
	}
	return t
}

// A Verdict is what Judge found out of an App that may run.
type Verdict struct {
	Signer   ID     // "" if no trusted publisher vouches for it
	Revision uint64 // the publisher's
	Remark   string // what is odd about it and was let pass, because no signature is required
}

// A Refusal says why an App may not run, as a sentence for the node's owner and for who
// sent it.
type Refusal struct {
	App string
	Err error // matches one of the Err… values
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("App %s is refused: %v%s", r.App, r.Err, advice(r.Err))
}

// Unwrap gives the reason.
func (r *Refusal) Unwrap() error { return r.Err }

func advice(err error) string {
	switch {
	case errors.Is(err, ErrUnsigned):
		return ", and this node runs only what a publisher that it trusts has signed; push it with --sign"
	case errors.Is(err, ErrUnknownKey):
		return "; nodes trust the publishers that were in the ticket they joined with"
	case errors.Is(err, ErrExpired), errors.Is(err, ErrRolledBack):
		return "; have its publisher sign it anew"
	case errors.Is(err, ErrTaken):
		return "; if the name has changed hands, leave that hub and join it again with a new ticket (spare-node leave, spare-node join)"
	}
	return ""
}

// Judge decides whether an App may run, from what a lease says of it alone. Where a
// signature is required, only what a trusted publisher signed, as it was signed, not
// expired and not older than what ran here before, may run. Where it is not, unsigned
// Apps and strangers' run too; but a signature that claims to be a trusted publisher's
// and is not, or that covers something else, is refused everywhere.
//
// The Trust it returns is to be kept before the App runs, and also when it is refused.
func (t Trust) Judge(app spare.App, now time.Time, required bool) (Trust, Verdict, error) {
	st, pins, err := Verify(app.Signed, t.Publishers, now)
	t.Publishers = pins
	if st != nil {
		if mixed := st.Covers(app); mixed != nil {
			err = mixed
		} else {
			err = t.known(st, err)
		}
	}
	v := Verdict{}
	if st != nil {
		v.Signer, v.Revision = st.Signer, st.Revision
	}
	switch {
	case err == nil:
		return t.note(st), v, nil
	case required || errors.Is(err, ErrBadSignature) || errors.Is(err, ErrMixed) || errors.Is(err, ErrForked):
		return t, v, &Refusal{App: app.Tag(), Err: err}
	}
	v = Verdict{}
	if !errors.Is(err, ErrUnsigned) {
		v.Remark = err.Error()
	}
	return t, v, nil
}

// known holds a statement against what ran before. The very statement that ran last is
// good whichever key signed it: a job that runs goes on while its publisher changes keys.
func (t Trust) known(st *Statement, err error) error {
	seen, before := t.Seen[key(st)]
	same := before && st.Revision == seen.Revision && st.Digest == seen.Digest
	switch {
	case err != nil && (!errors.Is(err, ErrRetiredKey) || !same):
		return err
	case !t.owns(st):
		return fmt.Errorf("%w: %s signed it, and %s was the first whose %s %s ran", ErrTaken,
			st.Signer.Short(), t.Owners[name(st)].Short(), st.Kind, st.Name)
	case !before || same:
		return nil
	case st.Revision < seen.Oldest:
		return fmt.Errorf("%w: this is revision %d, and revision %d ran here", ErrRolledBack, st.Revision, seen.Revision)
	case st.Revision == seen.Revision:
		return fmt.Errorf("%w: revision %d that ran here had another manifest", ErrMixed, st.Revision)
	}
	return nil
}

func key(st *Statement) string { return string(st.Kind) + " " + st.Tag() }

func name(st *Statement) string { return string(st.Kind) + " " + st.Name }

// owns reports whether a statement is by the publisher whose App was the first to run
// under that name, whatever keys it has had since. Else the least of the trusted could
// take over any App, with a revision that its own publisher cannot exceed.
func (t Trust) owns(st *Statement) bool {
	owner, taken := t.Owners[name(st)]
	return !taken || slices.ContainsFunc(t.Publishers, func(p Pin) bool { return p.has(owner) && p.has(st.Signer) })
}

// note remembers the highest revision of an App, the highest demand of any, and whose its
// name is.
func (t Trust) note(st *Statement) Trust {
	if _, taken := t.Owners[name(st)]; !taken {
		t.Owners = maps.Clone(t.Owners)
		if t.Owners == nil {
			t.Owners = map[string]ID{}
		}
		t.Owners[name(st)] = st.Signer
	}
	key := key(st)
	oldest := st.Oldest
	if oldest == 0 {
		oldest = st.Revision
	}
	seen := t.Seen[key]
	next := seen
	next.Oldest = max(seen.Oldest, oldest)
	if st.Revision > seen.Revision {
		next.Revision, next.Digest = st.Revision, st.Digest
	}
	if next != seen {
		t.Seen = maps.Clone(t.Seen)
		if t.Seen == nil {
			t.Seen = map[string]Seen{}
		}
		t.Seen[key] = next
	}
	return t
}

// Equal reports whether two records of trust say the same.
func (t Trust) Equal(other Trust) bool {
	return maps.Equal(t.Seen, other.Seen) && maps.Equal(t.Owners, other.Owners) && slices.EqualFunc(t.Publishers, other.Publishers, func(a, b Pin) bool {
		return a.Key.Equal(b.Key) && a.Sequence == b.Sequence &&
			slices.EqualFunc(a.Retired, b.Retired, func(x, y ed25519.PublicKey) bool { return x.Equal(y) })
	})
}
