package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// Registries lists registries of images, by host as images name them, separated by commas:
// "registry.lan:5000". The owner names them, so they may stand at private addresses.
type Registries string

// Mirrors lists mirrors of registries, "docker.io=mirror.lan:5000", separated by commas.
// Several of one registry are asked in their order. "http://" before a mirror's host does
// without TLS.
type Mirrors string

// List is their hosts.
func (r Registries) List() []string { return words(string(r)) }

// ByHost is the mirrors of each registry.
func (m Mirrors) ByHost() map[string][]string {
	all := map[string][]string{}
	for _, pair := range words(string(m)) {
		host, mirror, _ := strings.Cut(pair, "=")
		all[host] = append(all[host], mirror)
	}
	return all
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' })
}

var registryHost = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

func (r Registries) check() error {
	for _, host := range r.List() {
		if !registryHost.MatchString(host) {
			return fmt.Errorf("preference allow_registries: %q is no registry; write its host as images name it, as registry.lan:5000", host)
		}
	}
	return nil
}

func (m Mirrors) check() error {
	for _, pair := range words(string(m)) {
		host, mirror, _ := strings.Cut(pair, "=")
		mirror = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(mirror, "https://"), "http://"), "/")
		if !registryHost.MatchString(host) || !registryHost.MatchString(mirror) {
			return fmt.Errorf("preference registry_mirrors: %q is no mirror; write REGISTRY=MIRROR, as docker.io=mirror.lan:5000", pair)
		}
	}
	return nil
}
