/* One CoAP exchange over DTLS 1.2 with wolfSSL: the request comes on standard input, the answer goes to standard output.
 * Arguments: host, port, suite (empty: its own list), then `psk IDENTITY KEY`, `server CA`, or `mutual CA CERT KEY`. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

static const char *identity, *key;

static unsigned int psk(WOLFSSL *ssl, const char *hint, char *id, unsigned int id_max, unsigned char *out,
                        unsigned int out_max) {
    (void)ssl, (void)hint, (void)out_max;
    snprintf(id, id_max, "%s", identity);
    memcpy(out, key, strlen(key));
    return (unsigned int)strlen(key);
}

static void fail(const char *what, int code) {
    fprintf(stderr, "%s: %d\n", what, code);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 5) fail("arguments", argc);
    wolfSSL_Init();
    WOLFSSL_CTX *ctx = wolfSSL_CTX_new(wolfDTLSv1_2_client_method());
    if (*argv[3] && wolfSSL_CTX_set_cipher_list(ctx, argv[3]) != WOLFSSL_SUCCESS) fail("no such suite", 0);
    if (strcmp(argv[4], "psk") == 0) {
        identity = argv[5], key = argv[6];
        wolfSSL_CTX_set_psk_client_callback(ctx, psk);
        wolfSSL_CTX_set_verify(ctx, WOLFSSL_VERIFY_NONE, NULL);
    } else if (wolfSSL_CTX_load_verify_locations(ctx, argv[5], NULL) != WOLFSSL_SUCCESS) {
        fail("CA", 0);
    }
    if (strcmp(argv[4], "mutual") == 0 &&
        (wolfSSL_CTX_use_certificate_file(ctx, argv[6], WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS ||
         wolfSSL_CTX_use_PrivateKey_file(ctx, argv[7], WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS))
        fail("certificate", 0);

    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    WOLFSSL *ssl = wolfSSL_new(ctx);
    wolfSSL_dtls_set_peer(ssl, &server, sizeof server);
    wolfSSL_set_fd(ssl, fd);
    if (wolfSSL_connect(ssl) != WOLFSSL_SUCCESS) fail("handshake", wolfSSL_get_error(ssl, 0));

    char buf[2048];
    int n = (int)read(0, buf, sizeof buf);
    if (wolfSSL_write(ssl, buf, n) != n) fail("write", wolfSSL_get_error(ssl, 0));
    n = wolfSSL_read(ssl, buf, sizeof buf);
    if (n <= 0) fail("read", wolfSSL_get_error(ssl, n));
    fwrite(buf, 1, (size_t)n, stdout);
    fflush(stdout);
    wolfSSL_shutdown(ssl);
    return 0;
}
