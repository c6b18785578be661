import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.configuration.JobManagerOptions;
import org.apache.flink.runtime.clusterframework.TaskExecutorProcessUtils;
import org.apache.flink.runtime.jobmanager.JobManagerProcessUtils;

/** Asks Flink itself whether it takes the memory of a configuration; its directory is the argument. */
public class FlinkMemory {
    public static void main(String[] args) {
        Configuration read = GlobalConfiguration.loadConfiguration(args[0]);
        System.out.println(TaskExecutorProcessUtils.processSpecFromConfig(read));
        System.out.println(
                JobManagerProcessUtils.processSpecFromConfigWithNewOptionToInterpretLegacyHeap(
                        read, JobManagerOptions.JVM_HEAP_MEMORY));
    }
}
