package lintel.xlang;

import java.util.Collections;
import java.util.Map;
import org.apache.beam.sdk.expansion.ExternalTransformRegistrar;
import org.apache.beam.sdk.extensions.sql.SqlTransform;
import org.apache.beam.sdk.transforms.ExternalTransformBuilder;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PInput;
import org.apache.beam.sdk.values.Row;

/** Beam SQL, as Python's SqlTransform asks for it. */
public final class Sql implements ExternalTransformRegistrar {
  @Override
  public Map<String, ExternalTransformBuilder<?, ?, ?>> knownBuilderInstances() {
    return Collections.singletonMap("beam:external:java:sql:v1", new Builder());
  }

  private static final class Builder
      implements ExternalTransformBuilder<Builder.Configuration, PInput, PCollection<Row>> {
    /** Of the payload. */
    public static final class Configuration {
      private String query = "";
      private String ddl = "";

      public void setQuery(String query) {
        this.query = query;
      }

      public void setDialect(String dialect) {
        if (dialect != null && !dialect.equalsIgnoreCase("calcite")) {
          throw new IllegalArgumentException("dialect " + dialect + ": there is only calcite");
        }
      }

      public void setDdl(String ddl) {
        this.ddl = ddl == null ? "" : ddl;
      }
    }

    @Override
    public PTransform<PInput, PCollection<Row>> buildExternal(Configuration c) {
      SqlTransform sql = SqlTransform.query(c.query);
      return c.ddl.isEmpty() ? sql : sql.withDdlString(c.ddl);
    }
  }
}
