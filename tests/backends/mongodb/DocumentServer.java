import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.util.List;

/** MongoDB's protocol over documents in memory, on a port of loopback, until it is killed. */
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

    public static void main(String[] arguments) throws InterruptedException {
        MemoryBackend backend = new MemoryBackend();
        backend.version(new DocumentServer());
        MongoServer server = new MongoServer(backend);
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
        Thread.currentThread().join();
    }
}
