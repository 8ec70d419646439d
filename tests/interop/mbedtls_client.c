/* One CoAP exchange over DTLS 1.2 with Mbed TLS: the request comes on standard input, the answer goes to standard output.
 * Arguments: host, port, suite (empty: its own list), then `psk IDENTITY KEY`, `server CA`, or `mutual CA CERT KEY`. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/timing.h>
#include <mbedtls/version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(const char *what, int code) {
    if (code >= 0) return;
    fprintf(stderr, "%s: -0x%04x\n", what, (unsigned int)-code);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 6) check("arguments", -argc);
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_net_context net;
    mbedtls_ssl_config config;
    mbedtls_ssl_context ssl;
    mbedtls_x509_crt ca, own;
    mbedtls_pk_context key;
    mbedtls_timing_delay_context timer;
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random);
    mbedtls_net_init(&net);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_init(&ssl);
    mbedtls_x509_crt_init(&ca);
    mbedtls_x509_crt_init(&own);
    mbedtls_pk_init(&key);
    check("random", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
    check("configuration", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_DATAGRAM,
                                                       MBEDTLS_SSL_PRESET_DEFAULT));
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
    mbedtls_ssl_conf_read_timeout(&config, 5000);
    int suites[] = {mbedtls_ssl_get_ciphersuite_id(argv[3]), 0};
    if (argv[3][0] != 0) {
        if (suites[0] == 0) check("no such suite", -1);
        mbedtls_ssl_conf_ciphersuites(&config, suites);
    }

    if (strcmp(argv[4], "psk") == 0) {
        if (argc < 7) check("arguments", -argc);
        mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_NONE);
        check("key", mbedtls_ssl_conf_psk(&config, (unsigned char *)argv[6], strlen(argv[6]), (unsigned char *)argv[5],
                                          strlen(argv[5])));
    } else {
        mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
        check("CA", mbedtls_x509_crt_parse_file(&ca, argv[5]));
        mbedtls_ssl_conf_ca_chain(&config, &ca, NULL);
    }
    if (strcmp(argv[4], "mutual") == 0) {
        if (argc < 8) check("arguments", -argc);
        check("certificate", mbedtls_x509_crt_parse_file(&own, argv[6]));
#if MBEDTLS_VERSION_MAJOR < 3
        check("key", mbedtls_pk_parse_keyfile(&key, argv[7], NULL));
#else
        check("key", mbedtls_pk_parse_keyfile(&key, argv[7], NULL, mbedtls_ctr_drbg_random, &random));
#endif
        check("certificate", mbedtls_ssl_conf_own_cert(&config, &own, &key));
    }

    check("setup", mbedtls_ssl_setup(&ssl, &config));
    check("name", mbedtls_ssl_set_hostname(&ssl, "localhost"));
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
    check("socket", mbedtls_net_connect(&net, argv[1], argv[2], MBEDTLS_NET_PROTO_UDP));
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, mbedtls_net_recv_timeout);
    check("handshake", mbedtls_ssl_handshake(&ssl));

    unsigned char buf[2048];
    int n = (int)read(0, buf, sizeof buf);
    check("write", mbedtls_ssl_write(&ssl, buf, (size_t)n));
    n = mbedtls_ssl_read(&ssl, buf, sizeof buf);
    check("read", n);
    fwrite(buf, 1, (size_t)n, stdout);
    fflush(stdout);
    mbedtls_ssl_close_notify(&ssl);
    return 0;
}
