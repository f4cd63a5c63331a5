package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestPrefs_RegistriesAndTheirMirrors(t *testing.T) {
	p := Default()
	for key, value := range map[string]string{
		"allow_registries": "registry.lan:5000, 10.0.0.5,[fd00::5]:5000",
		"registry_mirrors": "docker.io=mirror.lan:5000,docker.io=http://10.0.0.5:5000/,quay.io=https://mirror.lan",
	} {
		if err := p.Set(key, value); err != nil || p.Get(key) != value {
			t.Errorf("%s is %q, %v", key, p.Get(key), err)
		}
	}
	if got := p.Registries.List(); !slices.Equal(got, []string{"registry.lan:5000", "10.0.0.5", "[fd00::5]:5000"}) {
		t.Errorf("registries %q", got)
	}
	want := map[string][]string{"docker.io": {"mirror.lan:5000", "http://10.0.0.5:5000/"}, "quay.io": {"https://mirror.lan"}}
	if got := p.Mirrors.ByHost(); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("mirrors %q", got)
	}
	for key, values := range map[string][]string{
		"allow_registries": {"http://registry.lan", "registry.lan/tools", "10.0.0.0/8", "*.lan"},
		"registry_mirrors": {"mirror.lan", "docker.io=", "=mirror.lan", "docker.io=ftp://mirror.lan", "docker.io=mirror.lan/cache"},
	} {
		for _, value := range values {
			if err := p.Set(key, value); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s=%s: %v", key, value, err)
			}
		}
	}
}
