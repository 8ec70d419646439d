import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.List;

/** MongoDB's protocol over documents in memory, on a port of loopback, until it is killed; by TLS where certificate and key are named. */
public final class DocumentServer implements MongoVersion {
    private DocumentServer() {}

    @Override
    public List<Integer> getVersionArray() {
        return List.of(4, 4, 0);
    }

    /** What drivers of today ask for at least; what they send to find a document was the same in 4.0. */
    @Override
    public int getWireVersion() {
        return 9;
    }

    private static PrivateKey key(Path file) throws GeneralSecurityException, IOException {
        String digits = Files.readString(file).replaceAll("-----[^-]*-----|\\s", "");
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(digits)));
    }

    private static X509Certificate certificate(Path file) throws GeneralSecurityException, IOException {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        return (X509Certificate) factory.generateCertificate(new ByteArrayInputStream(Files.readAllBytes(file)));
    }

    public static void main(String[] arguments) throws Exception {
        MemoryBackend backend = new MemoryBackend();
        backend.version(new DocumentServer());
        MongoServer server = new MongoServer(backend);
        if (arguments.length > 1) {
            server.enableSsl(key(Path.of(arguments[2])), null, certificate(Path.of(arguments[1])));
        }
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
        Thread.currentThread().join();
    }
}
