package main

import (
	"context"

	"ginnel/configs"
	"ginnel/control"
)

// dnsSettings returns the DNS settings of the network: those of --dns-config, which is read, or of
// --dns.
func (f *controlFlags) dnsSettings() (names control.DNSConfig, err error) {
	if f.dnsConfig == "" {
		for _, a := range f.dns.value {
			names.Resolvers = append(names.Resolvers, control.Resolver{Addr: a.String()})
		}
		return names, nil
	}
	if len(f.dns.value) > 0 {
		return names, usagef("--dns and --dns-config exclude each other: list the addresses as nameservers in %s",
			f.dnsConfig)
	}
	settings, err := configs.LoadDNS(f.dnsConfig)
	if err != nil {
		return names, usagef("--dns-config: %w", err)
	}
	names.Resolvers = dnsResolvers(settings.Nameservers)
	names.FallbackResolvers = dnsResolvers(settings.Fallback)
	names.Domains = settings.Search
	for domain, servers := range settings.Split {
		if names.Routes == nil {
			names.Routes = make(map[string][]control.Resolver)
		}
		names.Routes[domain] = dnsResolvers(servers)
	}
	for _, r := range settings.Records {
		names.ExtraRecords = append(names.ExtraRecords, control.DNSRecord{Name: r.Name, Value: r.Addr.String()})
	}
	return names, nil
}

// dnsResolvers returns the servers in the form of the wire, where a list that is empty must not be
// left out.
func dnsResolvers(servers []string) []control.Resolver {
	list := []control.Resolver{}
	for _, s := range servers {
		list = append(list, control.Resolver{Addr: s})
	}
	return list
}

// useDNSConfig reads the file of --dns-config again and tells all nodes, or says why not; then the
// settings before stay.
func (s *controlService) useDNSConfig() {
	if s.f.dnsConfig == "" {
		return
	}
	var names control.DNSConfig
	err := checkRegular(s.f.dnsConfig)
	if err == nil {
		names, err = s.f.dnsSettings()
	}
	if err != nil {
		s.log.Error("DNS settings refused, the settings before them stay", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	if err := s.ctl.SetDNS(ctx, names); err != nil {
		s.log.Error("DNS settings not taken", "err", err)
		return
	}
	s.log.Info("DNS settings are in force", "file", s.f.dnsConfig)
}
