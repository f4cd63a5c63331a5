package egress

import (
	"errors"
	"net/netip"
	"testing"
)

func TestRule_TellsWhatItCanFromAHostsName(t *testing.T) {
	strict, office := Rule{own: nowhere}, Rule{own: nowhere, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for host, want := range map[string]struct{ strict, office bool }{
		"registry.example":   {true, true},
		"93.184.216.34":      {true, true},
		"3scale.example":     {true, true},
		"0x.example":         {true, true},
		"registry.lan":       {false, true},
		"registry":           {false, true},
		"localhost.":         {false, true},
		"10.0.0.1":           {false, true},
		"127.0.0.1":          {false, false},
		"::1":                {false, false},
		"127.1":              {false, false},
		"0x7f.1":             {false, false},
		"10.1":               {false, false},
		"2130706433":         {false, false},
		"127.0.0.0x1":        {false, false},
		"127.0.0.1.":         {false, false},
		"":                   {false, false},
		"a b":                {false, false},
		"registry..example":  {false, false},
		"registry.example/x": {false, false},
	} {
		if err := strict.CheckHost(host); (err == nil) != want.strict || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%q: %v", host, err)
		}
		if err := office.CheckHost(host); (err == nil) != want.office {
			t.Errorf("%q, with a network allowed: %v", host, err)
		}
	}
}
