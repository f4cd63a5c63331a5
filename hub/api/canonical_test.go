package api

import "testing"

func TestCanonical_EverySpellingOfAPathIsOne(t *testing.T) {
	const id = "0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60"
	for given, want := range map[string]string{
		"/v1/customer/jobs":                                 "/v1/computing/jobs",
		"/v1/computing/jobs/" + id + "/run":                 "/v1/computing/jobs/" + id + "/run",
		"/v1/customer/jobs/run/" + id:                       "/v1/computing/jobs/" + id + "/run",
		"/v1/customer/jobs/uploadcompleted/" + id:           "/v1/computing/jobs/" + id + "/uploadcompleted",
		"/v1/customer/jobs/templates":                       "/v1/computing/templates",
		"/v1/customer/jobs/templates/a@v0.2":                "/v1/computing/templates/a@v0.2",
		"/v1/customer/jobs/templates/a@v0.2/presets":        "/v1/computing/templates/a@v0.2/presets",
		"/v1/customer/jobs/filter":                          "/v1/computing/jobs/filter",
		"/v1/customer/jobs/runningTasks":                    "/v1/computing/jobs/runningTasks",
		"/v1/customer/events":                               "/v1/events",
		"/v1/computing/events":                              "/v1/events",
		"/v1/customer/wallet/balance":                       "/v1/wallet/balance",
		"/v1/customer/jobs/" + id + "/files/a/" + id:        "/v1/computing/jobs/" + id + "/files/a/" + id,
		"/v1/dev/apps/hello@0.1":                            "/v1/dev/apps/hello@0.1",
		"/v1/customerx/jobs":                                "/v1/customerx/jobs",
		"/":                                                 "/",
		"/v1/customer/":                                     "/v1/computing/",
		"/v1/computing/jobs/" + id + "/" + id:               "/v1/computing/jobs/" + id + "/" + id,
		"/v1/customer/jobs/not-a-verb/" + id + "/something": "/v1/computing/jobs/not-a-verb/" + id + "/something",
	} {
		if got := canonical(given); got != want {
			t.Errorf("canonical(%q) = %q, want %q", given, got, want)
		}
	}
}
