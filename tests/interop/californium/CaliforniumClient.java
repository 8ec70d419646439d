import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.cert.X509Certificate;
import java.util.Collections;
import java.util.List;

import org.eclipse.californium.core.CoapClient;
import org.eclipse.californium.core.CoapResponse;
import org.eclipse.californium.core.coap.MediaTypeRegistry;
import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.core.network.CoapEndpoint;
import org.eclipse.californium.elements.config.CertificateAuthenticationMode;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.elements.util.SslContextUtil;
import org.eclipse.californium.scandium.DTLSConnector;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.californium.scandium.config.DtlsConfig.DtlsRole;
import org.eclipse.californium.scandium.config.DtlsConnectorConfig;
import org.eclipse.californium.scandium.dtls.CertificateType;
import org.eclipse.californium.scandium.dtls.cipher.CipherSuite;
import org.eclipse.californium.scandium.dtls.pskstore.AdvancedSinglePskStore;
import org.eclipse.californium.scandium.dtls.x509.NewAdvancedCertificateVerifier;
import org.eclipse.californium.scandium.dtls.x509.SingleCertificateProvider;
import org.eclipse.californium.scandium.dtls.x509.StaticNewAdvancedCertificateVerifier;

/**
 * Publishes over DTLS with Californium, three times over one connector: at once, at once again, and after the session was told to
 * resume, which without tickets is a new handshake. Arguments: URI, suite, bytes of Connection ID (-1: none offered), then
 * {@code psk IDENTITY KEY}, {@code server CA}, {@code mutual CA CERT_AND_KEY} or {@code raw CERT_AND_KEY}.
 */
public class CaliforniumClient {
    public static void main(String[] args) throws Exception {
        CoapConfig.register();
        DtlsConfig.register();
        Configuration config = Configuration.createStandardWithoutFile();
        config.set(DtlsConfig.DTLS_ROLE, DtlsRole.CLIENT_ONLY);
        config.set(DtlsConfig.DTLS_RECOMMENDED_CIPHER_SUITES_ONLY, false);
        config.set(DtlsConfig.DTLS_VERIFY_SERVER_CERTIFICATES_SUBJECT, false);
        config.setAsList(DtlsConfig.DTLS_CIPHER_SUITES, CipherSuite.getTypeByName(args[1]));
        int cid = Integer.parseInt(args[2]);
        config.set(DtlsConfig.DTLS_CONNECTION_ID_LENGTH, cid < 0 ? null : cid);
        DtlsConnectorConfig.Builder builder = DtlsConnectorConfig.builder(config).setAddress(new InetSocketAddress(0));
        switch (args[3]) {
            case "psk":
                builder.setAdvancedPskStore(new AdvancedSinglePskStore(args[4], args[5].getBytes(StandardCharsets.US_ASCII)));
                break;
            case "server":
                builder.setAdvancedCertificateVerifier(trusting(args[4]));
                break;
            case "mutual":
                builder.setAdvancedCertificateVerifier(trusting(args[4]));
                builder.setCertificateIdentityProvider(own(args[5], CertificateType.X_509));
                break;
            case "raw":
                builder.setAdvancedCertificateVerifier(
                        StaticNewAdvancedCertificateVerifier.builder().setTrustAllRPKs().build());
                builder.setCertificateIdentityProvider(own(args[4], CertificateType.RAW_PUBLIC_KEY));
                break;
            default:
                throw new IllegalArgumentException(args[3]);
        }
        DTLSConnector connector = new DTLSConnector(builder.build());
        CoapEndpoint endpoint = new CoapEndpoint.Builder().setConfiguration(config).setConnector(connector).build();
        for (int n = 0; n < 3; n++) {
            if (n == 2) {
                connector.forceResumeAllSessions();
            }
            // One that is new: it would hold to the session that it began with.
            CoapClient client = new CoapClient(args[0]).setEndpoint(endpoint).setTimeout(15_000L);
            CoapResponse answer = client.put("x", MediaTypeRegistry.TEXT_PLAIN);
            System.out.println(answer == null ? "no answer" : answer.getCode().toString());
        }
        endpoint.destroy();
        System.exit(0);
    }

    private static NewAdvancedCertificateVerifier trusting(String file) throws Exception {
        X509Certificate[] trusted = SslContextUtil.asX509Certificates(SslContextUtil.loadTrustedCertificates(file));
        return StaticNewAdvancedCertificateVerifier.builder().setTrustedCertificates(trusted).build();
    }

    private static SingleCertificateProvider own(String file, CertificateType kind) throws Exception {
        SslContextUtil.Credentials own = SslContextUtil.loadCredentials(file);
        List<CertificateType> kinds = Collections.singletonList(kind);
        return kind == CertificateType.RAW_PUBLIC_KEY
                ? new SingleCertificateProvider(own.getPrivateKey(), own.getCertificateChain()[0].getPublicKey())
                : new SingleCertificateProvider(own.getPrivateKey(), own.getCertificateChain(), kinds);
    }
}
