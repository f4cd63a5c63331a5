package protocol

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spare-compute/spare"
)

func exampleTicket() Ticket {
	return Ticket{
		Version: TicketVersion, HubName: "Physics lab", Addresses: []string{"hub.example.org:7443", "192.0.2.7:7443", "[2001:db8::1]:7443"},
		HubKey: spare.NodeID(spare.Sum([]byte("hub"))), Pool: "trusted", Token: []byte("0123456789abcdef"),
		Expires: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC), Publishers: [][]byte{make([]byte, ed25519.PublicKeySize)},
		Store: "https://store.example.org/blobs",
	}
}

func TestTicket_TextAndBack(t *testing.T) {
	want := exampleTicket()
	text := want.String()
	if strings.ContainsAny(text, " \n\t'\"$&;|") || !strings.HasPrefix(text, "spare1:") {
		t.Fatalf("the text %q is not one word to paste", text)
	}
	got, err := ParseTicket(text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func TestTicket_SpaceAndQuotesOfCopyingDoNoHarm(t *testing.T) {
	text := exampleTicket().String()
	for _, s := range []string{"  " + text + "\r\n", text[:80] + "\n  " + text[80:], `"` + text + `"`, "'" + text + "'"} {
		if _, err := ParseTicket(s); err != nil {
			t.Errorf("ParseTicket(%q) = %v", s, err)
		}
	}
}

func TestTicket_MangledIsToldFromOtherTrouble(t *testing.T) {
	text := exampleTicket().String()
	for name, c := range map[string]struct {
		text string
		want error
		says string
	}{
		"empty":            {"", ErrTicketMangled, "does not begin with"},
		"something else":   {"hello world", ErrTicketMangled, "does not begin with"},
		"beginning gone":   {text[9:], ErrTicketMangled, "beginning is missing"},
		"end gone":         {text[:len(text)-4], ErrTicketMangled, "copy the whole line again"},
		"all but the word": {"spare1:", ErrTicketMangled, "its end is missing"},
		"odd end gone":     {text[:len(text)-1], ErrTicketMangled, "copy the whole line again"},
		"other character":  {text[:50] + "!" + text[51:], ErrTicketMangled, "not part of any ticket"},
		"two swapped":      {swap(text, 60), ErrTicketMangled, "missing or changed"},
		"no version":       {"spare:" + text[7:], ErrTicketMangled, "version"},
		"padded version":   {"spare01:" + text[7:], ErrTicketMangled, "version"},
		"newer":            {"spare2:" + text[7:], ErrTicketVersion, "update this program"},
		"endless":          {text + strings.Repeat("A", 1<<20), ErrTicketMangled, "longer than any"},
	} {
		_, err := ParseTicket(c.text)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// swap exchanges two neighbours that differ, from i on.
func swap(s string, i int) string {
	for s[i] == s[i+1] {
		i++
	}
	return s[:i] + s[i+1:i+2] + s[i:i+1] + s[i+2:]
}

func TestTicket_AnyOneChangedCharacterIsFoundOut(t *testing.T) {
	text := exampleTicket().String()
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:")).Draw(t, "character")
		if c == text[i] {
			return
		}
		changed := text[:i] + string(c) + text[i+1:]
		if _, err := ParseTicket(changed); err == nil {
			t.Fatalf("%q parses", changed)
		}
	})
}

func TestTicket_WhatItSaysIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Ticket)
		says   string
	}{
		"no key":              {func(k *Ticket) { k.HubKey = "" }, "key is missing"},
		"short key":           {func(k *Ticket) { k.HubKey = "abcd" }, "key is missing"},
		"no address":          {func(k *Ticket) { k.Addresses = nil }, "0 addresses"},
		"too many addresses":  {func(k *Ticket) { k.Addresses = make([]string, 17) }, "17 addresses"},
		"address without":     {func(k *Ticket) { k.Addresses = []string{"hub.example.org"} }, "host:port"},
		"no port":             {func(k *Ticket) { k.Addresses = []string{"hub:0"} }, "1 to 65535"},
		"named port":          {func(k *Ticket) { k.Addresses = []string{"hub:https"} }, "1 to 65535"},
		"no host":             {func(k *Ticket) { k.Addresses = []string{":7443"} }, "before the port"},
		"path in address":     {func(k *Ticket) { k.Addresses = []string{"a/b:7443"} }, "before the port"},
		"escape in a name":    {func(k *Ticket) { k.HubName = "a\x1b[2Jb" }, "cannot be shown"},
		"long pool":           {func(k *Ticket) { k.Pool = strings.Repeat("p", 129) }, "longer than"},
		"long token":          {func(k *Ticket) { k.Token = make([]byte, 65) }, "token"},
		"short publisher key": {func(k *Ticket) { k.Publishers = [][]byte{{1}} }, "publisher"},
		"store with no host":  {func(k *Ticket) { k.Store = "file:///etc" }, "no web address"},
	} {
		k := exampleTicket()
		c.change(&k)
		if err := k.Check(); !errors.Is(err, ErrTicketMangled) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Check = %v, want %q", name, err, c.says)
		}
		if _, err := ParseTicket(k.String()); !errors.Is(err, ErrTicketMangled) {
			t.Errorf("%s: ParseTicket = %v, want it refused", name, err)
		}
	}
}

func TestTicket_ExpiryBearsAWrongClock(t *testing.T) {
	k := exampleTicket()
	if err := k.CheckExpiry(k.Expires.Add(ClockSkew - time.Second)); err != nil {
		t.Fatalf("a clock one day fast refuses a good ticket: %v", err)
	}
	err := k.CheckExpiry(k.Expires.Add(ClockSkew))
	if !errors.Is(err, ErrTicketExpired) || !strings.Contains(err.Error(), "spare-hub ticket") {
		t.Fatalf("CheckExpiry = %v", err)
	}
	k.Expires = time.Time{}
	if err := k.CheckExpiry(time.Unix(1<<40, 0)); err != nil {
		t.Fatalf("a ticket without an end has ended: %v", err)
	}
}

// A later release may add fields: their bytes must not keep this one from reading it.
func TestTicket_UnknownFieldsAreIgnored(t *testing.T) {
	raw, err := ticketBytes(exampleTicket().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseTicket(ticketText(append(raw, 0xfa, 0x3f, 3, 'n', 'e', 'w'))) // field 1023
	if err != nil || !reflect.DeepEqual(got, exampleTicket()) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// ticketBytes is the content of a ticket's text, and ticketText is the way back.
func ticketBytes(text string) ([]byte, error) {
	data, err := base64.RawURLEncoding.DecodeString(text[len("spare1:"):])
	if err != nil {
		return nil, err
	}
	return data[:len(data)-ticketChecksum], nil
}

func ticketText(raw []byte) string {
	data := append(bytes.Clone(raw), checksum("spare1:", raw)...)
	return "spare1:" + base64.RawURLEncoding.EncodeToString(data)
}
