package policy

import "fmt"

// Signature says whether Apps need the signature of a publisher that the node trusts.
type Signature string

// The choices of Signature.
const (
	SignatureByPool Signature = "pool"   // in pools of volunteers, or as the node was told when it joined
	SignatureAlways Signature = "always" // wherever the work comes from
	SignatureNever  Signature = "never"
)

func (s Signature) check() error {
	switch s {
	case "", SignatureByPool, SignatureAlways, SignatureNever:
		return nil
	}
	return fmt.Errorf("preference require_publisher_signature: %q is not allowed; use pool, always or never", s)
}

// Required decides for a hub: byPool is what holds where the owner says nothing else.
func (s Signature) Required(byPool bool) bool {
	switch s {
	case SignatureAlways:
		return true
	case SignatureNever:
		return false
	}
	return byPool
}
